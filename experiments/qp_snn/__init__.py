"""QP-SNN: quantize the weights with rescaling, prune whole channels by singular values, shrink.

Wei et al. 2025, "QP-SNN: Quantized and Pruned Spiking Neural Networks", ICLR 2025, arXiv
2502.05905. A network is trained with quantized weights, its channels are scored on what they do,
the lowest are cut out for good, and the smaller network is fine-tuned. Beside the full method stand
the rows of its ablation: another quantizer (vanilla), another score (the membrane potential's).

    python -m experiments.qp_snn --preset cpu --dataset cifar10 --data-dir DIR
"""
