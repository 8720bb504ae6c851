"""The joint pipeline: channels, connections, bits, time steps and spikes, one after the other.

None of the four papers has it whole. From a dense network: cut out the channels whose spike maps
have the lowest rank (Wei et al. 2025), prune connections by ADMM and damp spikes (Deng et al.
2019), quantize what is left with a scale for each channel (Wei et al. 2025), and go on with fewer
and fewer time steps (Chowdhury et al. 2021). Stages are left out or reordered with --stages, or
trained in one phase with --together. What a stage achieved all later ones keep; each has a row in
the report.

    python -m experiments.joint --preset cpu --dataset mnist --data-dir DIR
"""
