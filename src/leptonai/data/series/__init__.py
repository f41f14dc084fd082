"""Time series: made regular, given features of their past, and cut into windows.

Nothing here lets a row know of what comes after it.
"""
