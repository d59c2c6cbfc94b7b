"""States over HTTP: a FastAPI router with Prefect's two routes, two of our own, and two pages. The extra `web` brings what it needs."""

from importlib.util import find_spec

for _name in ("fastapi", "jinja2"):
    if find_spec(_name) is None:
        raise ImportError(f"flowstates.web needs {_name}: pip install 'flowstates[web]'", name=_name)

from flowstates.web.router import create_router  # noqa: E402  # what it needs is there

__all__ = ["create_router"]
