"""``python -m unstuck`` prints what was built, what runs, and what to do about the rest."""

from unstuck._report import report

if __name__ == "__main__":
    print(report())
