"""From pair-wise labels to one network."""

from saot.decoder.distill import DecoderFit, Term, fit_decoder
from saot.decoder.network import TokenDecoder
from saot.decoder.pool import TokenPool, token_pool
from saot.decoder.refine import TargetTokens, refine_decoder

__all__ = [
    "DecoderFit",
    "TargetTokens",
    "Term",
    "TokenDecoder",
    "TokenPool",
    "fit_decoder",
    "refine_decoder",
    "token_pool",
]
