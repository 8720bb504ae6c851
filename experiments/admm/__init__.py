"""ADMM compression with activity regularization: every single way, and the joint way.

Deng et al. 2019, "Comprehensive SNN Compression Using ADMM Optimization and Activity
Regularization", arXiv 1911.00822. From one dense network: prune connections, quantize weights and
quieten neurons, each alone, then all together; beside it one-shot magnitude pruning with the same
number of epochs. Every network is evaluated on the test images and packed to a file.

    python -m experiments.admm --preset cpu --dataset mnist --data-dir DIR
"""
