"""A dense spiking network of CIFAR-10 in little time, and what each part of the recipe is worth.

What makes ANNs fast (Jordan 2024, arXiv 2404.00498; Jordan et al. 2024, Muon), carried over to
spikes: a whitened first layer that nobody trains, flips by turns, orthogonalised momentum, one
cycle of the rate, smoothed labels; and one time step in most epochs, two at the end. Every part is
an option, so that a row of the ablation is a command. Held-out images are looked at once, at the
end: a second test set.

    python -m experiments.fast --preset cpu --dataset cifar10 --data-dir DIR
"""
