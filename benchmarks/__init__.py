"""How fast mergebuild is, beside `cp`, `dd`, ninja, sd-mecha and mergekit on the same machine in the same minutes.

    python -m benchmarks --list
    python -m benchmarks --case sd15_weighted_sum --runs 3 --work ~/bench

`process` measures one process, `lab` has what stands ready before the clock starts, `arms` are the programs that are
compared, `cases` the table of what is measured and what must come out, `results` the figures, and their comparison
over time. What the figures mean is told in `docs/measuring.md`. Linux and the standard library are enough; the
peers are installed where they are asked for.
"""

__all__: list[str] = []
