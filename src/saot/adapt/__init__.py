"""T2S-DA: networks trained end to end on labelled source and unlabelled target pictures."""
