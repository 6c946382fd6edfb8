"""What a study would take on some hardware before it runs: time, energy, carbon, money, as ranges with their basis.

Reading order: `hardware` (peaks, assumptions), `price` (the arithmetic), `basis` (where rates come from), `document`.
"""
