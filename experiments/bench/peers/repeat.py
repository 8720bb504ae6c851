"""What the adapters of JAX frameworks share: calling something a number of times."""


def repeated(forward, *arguments):
    """Return a function of n that calls `forward(*arguments)` n times and waits for the last."""

    def run(steps):
        for _ in range(steps):
            result = forward(*arguments)
        result.block_until_ready()

    return run
