"""Spike-Thrift: a very sparse network from one training, guided by a dense one, made to spike.

Kundu, Datta, Pedram and Beerel 2021, "Spike-Thrift: Towards Energy-Efficient Deep Spiking Neural
Networks by Limiting Spiking Activity via Attention-Guided Compression", WACV, pp. 3953-3962. A
dense ANN, the meta-model, guides the training of a sparse one whose weights move to where they are
needed; that one is converted to a spiking network and tuned with its masks unchanged. Beside it
stand sparse ANNs that learn from less, and the dense spiking network. The text of the paper is not
public: what is built here follows its abstract and the public codes that it stands on, and no row
is a reproduction of a published one.

    python -m experiments.spike_thrift --preset cpu --dataset cifar10 --data-dir DIR
"""
