"""A TFX pipeline that trains a language model on the captions, for three orchestrators."""
