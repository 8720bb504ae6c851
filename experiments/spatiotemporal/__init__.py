"""Spatio-temporal pruning: fewer channels, fewer time steps, 5-bit weights; energy and noise.

Chowdhury, Garg and Roy 2021, "Spatio-Temporal Pruning and Quantization for Low-latency Spiking
Neural Networks", arXiv 2104.12528. An ANN is trained, converted to a spiking network and tuned. The
principal components of its potentials say how wide each convolution must be; a network of that size
is trained in the same way, then over fewer and fewer time steps, each from the weights of the one
before; at last its weights are rounded. The energies are compared with the ANN that was not pruned.

    python -m experiments.spatiotemporal --preset cpu --dataset cifar10 --data-dir DIR
"""
