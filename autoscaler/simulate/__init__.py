"""The backtest: the daemon's own decisions on a virtual clock, against recorded traffic."""
