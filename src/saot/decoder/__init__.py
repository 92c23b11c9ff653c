"""From pair-wise labels to one network."""

from saot.decoder.distill import DecoderFit, ExtraLoss, Focal, Term, fit_decoder
from saot.decoder.fine import IGNORE, FineDecoder, cells_of_tokens, cross_tokens, seen_rows, seen_tokens, seen_width
from saot.decoder.joint import JointDecoder, joint_logits
from saot.decoder.network import (
    CELLS,
    Decoder,
    GridDecoder,
    MLPDecoder,
    TokenDecoder,
    decoder_of_shape,
    make_decoder,
    picture_logits,
)
from saot.decoder.pool import BlockReader, Rows, TokenPool, point_pool, token_pool
from saot.decoder.pyramid import pyramid
from saot.decoder.refine import TargetTokens, refine_decoder, update_teacher
from saot.decoder.tail import TailDecoder
from saot.decoder.tail_fit import Windows, fit_tail

__all__ = [
    "CELLS",
    "IGNORE",
    "BlockReader",
    "Decoder",
    "DecoderFit",
    "ExtraLoss",
    "FineDecoder",
    "Focal",
    "GridDecoder",
    "JointDecoder",
    "MLPDecoder",
    "Rows",
    "TailDecoder",
    "TargetTokens",
    "Term",
    "TokenDecoder",
    "TokenPool",
    "Windows",
    "cells_of_tokens",
    "cross_tokens",
    "decoder_of_shape",
    "fit_decoder",
    "fit_tail",
    "joint_logits",
    "make_decoder",
    "picture_logits",
    "point_pool",
    "pyramid",
    "refine_decoder",
    "seen_rows",
    "seen_tokens",
    "seen_width",
    "token_pool",
    "update_teacher",
]
