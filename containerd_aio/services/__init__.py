"""Containerd's services, one thin module each, and the generated stubs behind them."""
