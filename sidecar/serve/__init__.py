"""The aiohttp application: metrics, health, status, query API, remote-read server, push."""
