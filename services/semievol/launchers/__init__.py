"""Implementations of `ports.Launcher`: in a thread (inline), in a child process (subprocess), as Jobs of a cluster (kubernetes),
scripted (fake)."""
