"""The status page: what a browser loads. `runtime.http` serves it."""
