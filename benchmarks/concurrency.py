"""Is the adaptive concurrency as good as the best fixed one? In simulated time; takes seconds.

    PYTHONPATH=tests python benchmarks/concurrency.py

Servers that saturate at 8 and at 200 requests, and one that answers 429 above 50. Prints the
throughput of adaptive over that of the best fixed width, and its retries per request.
"""

from simulated_servers import refusing, saturating, simulate

SERVERS = {
    "saturates at 8": (saturating(8), 5_000),
    "saturates at 200": (saturating(200), 40_000),
    "429 above 50": (refusing(50), 20_000),
    "slower above 100": (saturating(100, thrash=0.3), 20_000),
}
WIDTHS = (1, 4, 8, 16, 32, 50, 64, 100, 128, 200, 256, 512, 1024)
SEEDS = 3


def main() -> None:
    for name, (server, requests) in SERVERS.items():
        fixed = {w: simulate(server, min(requests, 200 * w), width=w) for w in WIDTHS}
        best = max(fixed, key=lambda width: fixed[width].rate)
        for seed in range(SEEDS):
            rate = simulate(server, requests, width=best, seed=seed).rate
            run = simulate(server, requests, seed=seed)
            print(
                f"{name:17} best fixed {best:4}: {rate:6.1f}/s  adaptive {run.rate:6.1f}/s "
                f"({run.rate / rate:.3f})  retries {run.refused / requests:.2%}  "
                f"width {run.widths[-1][1]}"
            )


if __name__ == "__main__":
    main()
