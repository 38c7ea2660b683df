"""Implementations of `ports.Launcher`: in a thread (inline), in a child process (subprocess), scripted (fake)."""
