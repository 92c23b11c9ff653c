"""Tables whose rows are ways of matching pictures, or of carrying labels along a sequence of them."""
