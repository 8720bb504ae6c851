"""A grid of sparsity and bits, and whatever else is a number, trained as one compiled program.

From one dense network every lane prunes its share of the connections and trains on with so many
bits, straight through the quantizer. All lanes are one program: nothing is compiled for a
configuration. Each network is evaluated, counted and packed; the report has the Pareto fronts
(accuracy against bytes and against synaptic operations), and the smallest network that stays
within a tolerance on held-out images is the product.

    python -m experiments.sweep --preset cpu --dataset mnist --data-dir DIR
    python -m experiments.sweep --axis timesteps=2,4 --axis spike_weight=0,0.03 --sparsity 0.8 0.9

With --search, Optuna proposes points between the ends of each axis in place of the grid; workers
share them, and lanes that lose are replaced early:

    python -m experiments.sweep --search 256 --workers 4 --halving 3
"""
