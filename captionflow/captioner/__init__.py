"""The model: vocabulary, dataset, network, training, generation.

It runs with PyTorch, NumPy, Pillow, fastavro, pyarrow, fsspec, safetensors and tqdm alone. Scores live in `evaluation`.
It imports `core` and `images`.
"""
