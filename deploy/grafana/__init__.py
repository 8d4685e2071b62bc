"""The dashboards as code. ``python -m deploy.grafana`` writes ``dashboards/*.json``.

Reading order: ``forecast``, ``fleet``, ``itself`` (what each shows), ``panels`` (how it is drawn).
"""
