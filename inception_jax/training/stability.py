# SPDX-License-Identifier: Apache-2.0
"""Stability limits of gradient descent with momentum and delayed gradients.

On a quadratic loss of curvature c, with gradients that are d updates old, heavy ball is

    v(t + 1) = momentum v(t) + c theta(t - d)
    theta(t + 1) = theta(t) - rate v(t + 1)

Whether theta converges to zero depends only on the momentum, the delay and k = rate * c.
The functions return the limit of k. Training is unstable if the largest eigenvalue of the
Hessian exceeds limit / rate. For momentum 0.9 and a rate of 0.045 this is 84 without delay,
2.2 with a delay of 1 and 0.14 with 19.

RMSProp divides the rate of each parameter by sqrt(mean of squares + epsilon). The mean of
squares starts at 1 (see `optimizer.make_optimizer`) and decreases to the square of the
gradient, which is 0 at a minimum. With small gradients, the rate to compare is therefore
rate / sqrt(1 + epsilon) in the first updates and rate / sqrt(epsilon) later, which with
epsilon = 1 is the rate itself. Larger gradients lower it.
"""

import cmath
import math


def stability_limit(momentum: float, delay: int = 0) -> float:
    """Return the limit of rate * curvature if every gradient is `delay` updates old.

    With `delay + 1` replicas in cyclic order, gradients have this delay. Without delay, the
    limit is 2 (1 + momentum). Without momentum, it is 2 sin(pi / (4 delay + 2)).

    Raises ValueError for a momentum outside [0, 1) or a negative delay.
    """
    _check_momentum(momentum)
    if delay < 0:
        raise ValueError(f"delay must be 0 or more updates, got {delay}.")

    # theta(t) = z^t solves the recursion if (z - 1) (z - momentum) z^(delay - 1) = -k. As k
    # grows from 0, the first z to reach the unit circle is exp(i angle) with the smallest
    # angle at which the left side is real and negative, because its modulus grows with the
    # angle. There the phase of the left side is pi. This function returns that phase minus
    # pi / 2.
    def phase(angle: float) -> float:
        return (delay - 0.5) * angle + cmath.phase(cmath.exp(1j * angle) - momentum)

    low, high = 0.0, math.pi
    for _ in range(60):  # each bisection adds one bit of precision
        middle = (low + high) / 2
        low, high = (middle, high) if phase(middle) < math.pi / 2 else (low, middle)
    z = cmath.exp(1j * high)
    return abs((z - 1) * (z - momentum))


def random_stability_limit(momentum: float, replicas: int) -> float:
    """Return the limit for the mean of theta if random replicas make the updates.

    A replica takes its gradient at the parameters after its own last update. Each update is
    made by one of n replicas, drawn at random, so the delay is d with probability p q^d,
    where p = 1 / n and q = 1 - p. The delay is independent of theta(t - d), so the mean of
    theta satisfies the recursion in which the gradient is averaged over d. Its solutions
    are z^t with

        (z - 1) (z - momentum) (z - q) + k p z^2 = 0

    The limit is the largest k at which this polynomial satisfies the Schur-Cohn conditions.
    The mean square of theta already diverges at a smaller k. With momentum 0.9, it diverges
    above 0.97 of the limit for 2 replicas and above 0.95 of it for 8. Without momentum, it
    diverges above 0.21 of the limit for 2 replicas.

    Raises ValueError for a momentum outside [0, 1) or fewer than one replica.
    """
    _check_momentum(momentum)
    if replicas < 1:
        raise ValueError(f"replicas must be 1 or more, got {replicas}.")
    q = 1 - 1 / replicas
    at_minus_one = 2 * (1 + momentum) * (2 * replicas - 1)
    if not momentum * q:
        return at_minus_one
    at_a_pair = (1 - momentum) * (1 - momentum * q) / (momentum * q)
    return min(at_minus_one, at_a_pair)


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}.")
