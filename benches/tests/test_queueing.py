"""The formulas of the scaling model, beside values that are known."""

import math
import pathlib
import random
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "compare"))

import queueing  # noqa: E402


class Scalability(unittest.TestCase):
    def test_one_worker_is_one_and_nothing_shared_is_linear(self):
        self.assertEqual(queueing.scalability(1, 0.3, 0.1), 1)
        self.assertEqual(queueing.scalability(8, 0, 0), 8)

    def test_what_was_put_in_is_found_again(self):
        for sigma, kappa in ((0.05, 0.001), (0.2, 0.0), (0.0, 0.01), (0.0, 0.0)):
            points = [(n, 1000 * queueing.scalability(n, sigma, kappa)) for n in (1, 2, 4, 8)]
            found = queueing.fitted(points)
            self.assertAlmostEqual(found[0], sigma, 6)
            self.assertAlmostEqual(found[1], kappa, 6)
        two = [(1, 1000), (2, 1000 * queueing.scalability(2, 0.1, 0))]
        self.assertAlmostEqual(queueing.fitted(two)[0], 0.1, 6)

    def test_noise_never_gives_what_cannot_be(self):
        self.assertEqual(queueing.fitted([(1, 1000), (2, 2100)]), (0.0, 0.0))
        sigma, kappa = queueing.fitted([(1, 1000), (2, 1900), (4, 4100)])
        self.assertTrue(sigma >= 0 and kappa >= 0)
        with self.assertRaises(ValueError):
            queueing.fitted([(2, 1000)])


class Waiting(unittest.TestCase):
    def test_one_server_waits_as_often_as_it_is_busy(self):
        self.assertAlmostEqual(queueing.erlang_c(1, 0.7), 0.7)
        # Tables of Erlang C: 5 servers, 4 erlang.
        self.assertAlmostEqual(queueing.erlang_c(5, 4.0), 0.5541, 4)
        self.assertEqual(queueing.erlang_c(2, 2.5), 1.0)

    def test_a_queue_that_grows_has_no_end(self):
        self.assertEqual(queueing.wait(1, 2.0, 1.0, 0.99), math.inf)
        self.assertEqual(queueing.wait(1, 0.001, 1.0, 0.99), 0.0)

    def test_a_simulated_queue_waits_as_long(self):
        generator = random.Random(7)
        rate, service, clock, free, waits = 0.8, 1.0, 0.0, 0.0, []
        for _ in range(400_000):
            clock += generator.expovariate(rate)
            waits.append(max(0.0, free - clock))
            free = max(free, clock) + generator.expovariate(1 / service)
        waits.sort()
        for share in (0.5, 0.9, 0.99):
            measured = waits[int(share * len(waits))]
            self.assertLess(abs(queueing.wait(1, rate, service, share) - measured), 0.1 * measured + 0.05, share)


if __name__ == "__main__":
    unittest.main()
