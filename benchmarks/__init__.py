"""How fast mergebuild is, compared with `cp`, `dd`, ninja, sd-mecha and mergekit on the same machine at the same time.

    python -m benchmarks --list
    python -m benchmarks --case sd15_weighted_sum --runs 3 --work ~/bench

Begin with `cases.py`, the table of what is measured, with bounds for the results. `arms.py` has the programs that are
compared, `lab.py` prepares models, environments and the page cache before the clock starts, `process.py` measures one
process, and `results.py` computes figures and compares them with an earlier run. `kernels.py` and `gpu.py` are programs
of their own. `docs/measuring.md` says what the figures mean. Needs Linux; the compared programs are installed when a
case needs them.
"""

__all__: list[str] = []
