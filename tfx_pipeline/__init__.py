"""The captions through TFX's ready-made components: a language model, on three orchestrators."""
