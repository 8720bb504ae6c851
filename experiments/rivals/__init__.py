"""ADMM pruning against one-shot and gradual magnitude pruning, over several seeds.

The claim (after Deng et al., arXiv 1911.00822): pulling the weights towards a sparse set before
pruning keeps more accuracy than cutting the small ones at once. Its rivals are one-shot magnitude
pruning and gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878). All start from the same
dense network, keep the same number of weights in each layer, and train for the same number of
epochs.

    python -m experiments.rivals --preset cpu --dataset mnist --data-dir DIR
"""
