"""Formulas for how a service scales and how long its requests wait. Pure functions; what is put in is measured."""

from __future__ import annotations

import math


def scalability(workers, sigma, kappa):
    """Speed-up by N workers: the universal scalability law (Gunther, Guerrilla Capacity Planning, 2007).

    `sigma` is the share of the work that is done one at a time, `kappa` what each pair of workers costs.
    """
    return workers / (1 + sigma * (workers - 1) + kappa * workers * (workers - 1))


def fitted(points):
    """Sigma and kappa, least squares, none below 0, of (workers, throughput) with one worker among them.

    With the throughput X, N X(1) / X(N) - 1 = sigma (N - 1) + kappa N (N - 1). Two points tell sigma alone.
    """
    points = sorted(points)
    if not points or points[0][0] != 1:
        raise ValueError("the throughput of one worker is needed")
    alone = points[0][1]
    rows = [(n - 1, n * (n - 1), n * alone / x - 1) for n, x in points if n > 1]
    if len(rows) < 2:
        return max(0.0, rows[0][2] / rows[0][0] if rows else 0.0), 0.0
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    ac, bc = (sum(row[i] * row[2] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    sigma, kappa = (ac * bb - bc * ab) / determinant, (aa * bc - ab * ac) / determinant
    if sigma < 0:
        return 0.0, max(0.0, bc / bb)
    if kappa < 0:
        return max(0.0, ac / aa), 0.0
    return sigma, kappa


def erlang_c(servers, load):
    """Share of requests that wait in M/M/c (Erlang, 1917); `load` is arrivals by the time that one is served, below `servers`."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def wait(servers, rate, service, share):
    """Time, in the unit of `service`, that this share of the requests waits at most in M/M/c; infinite where the queue grows.

    `rate` is arrivals by that unit.
    """
    load = rate * service
    if load >= servers:
        return math.inf
    late = erlang_c(servers, load)
    return max(0.0, math.log(late / (1 - share)) / (servers / service - rate)) if late > 0 else 0.0
