"""The page of `mtc serve-tls` that shows what clients asked for and got, for a browser on the same machine."""

import ipaddress

from jinja2 import Environment, StrictUndefined
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mtc import __version__
from mtc.cli.serve_visits import KINDS, MAX_VISITS, PAGE, Site, Visits
from mtc.kernel import active_kernel
from mtc.web.frame import name_endpoint
from mtc.web.objects import not_found
from mtc.web.page_files import PageFiles

_COLOURS = {"landmark-relative": "good", "failed": "bad"}
_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="2">
<title>{{ total }} handshakes</title>
<link rel="stylesheet" href="{{ page }}/mtc.css?{{ style }}">
<link rel="icon" href="{{ page }}/icon.svg">
</head>
<body>
<nav class="top">
  <a class="home" href="/"><img src="{{ page }}/icon.svg" alt="" width="22" height="22">{{ site.url }}</a>
</nav>
<main>
<header class="head">
  <div>
    <h1>What clients asked for and got</h1>
    <p class="sub">The newest {{ most }} handshakes since {{ started | moment }} UTC, for browsers on this machine.</p>
  </div>
</header>
<section class="figures">
  {% for kind, count in counts %}
  <div><p class="value">{{ count | number }}</p><p class="what">{{ kind }}</p></div>
  {% endfor %}
</section>
<section>
  <h2>Certificates</h2>
  <div class="scroll"><table>
  <thead><tr><th>kind</th><th>for</th><th class="n">bytes</th><th>until (UTC)</th></tr></thead>
  <tbody>
  {% for kind, names, count, end in site.certificates %}
  <tr><td>{{ kind }}</td><td>{{ names }}</td><td class="n">{{ count | number }}</td><td>{{ end | moment }}</td></tr>
  {% endfor %}
  </tbody>
  </table></div>
</section>
<section>
  <h2>Handshakes</h2>
  {% if visits %}
  <div class="scroll"><table>
  <thead><tr>
    <th>time (UTC)</th><th>name</th><th>asked for</th><th>got</th><th>why</th><th class="n">bytes</th>
  </tr></thead>
  <tbody>
  {% for item in visits %}
  <tr>
    <td>{{ item.moment.strftime("%H:%M:%S") }}</td><td>{{ item.name_text }}</td>
    <td><code>{{ item.asked_text }}</code></td>
    <td class="{{ colours.get(item.kind, "") }}">{{ item.kind }}</td><td>{{ item.why_text }}</td>
    <td class="n">{% if item.byte_count %}{{ item.byte_count | number }}{% endif %}</td>
  </tr>
  {% endfor %}
  </tbody>
  </table></div>
  {% else %}
  <p class="empty">Nobody has come yet.</p>
  {% endif %}
</section>
</main>
<footer>mtc {{ version }} · kernel {{ kernel }} · <a href="{{ page }}/visits.json">for scripts</a></footer>
</body>
</html>
"""


class VisitPages:
    """The page of the view, and the same for scripts. site: set once the server listens."""

    def __init__(self, visits: Visits) -> None:
        """Take what is shown."""
        self.site: Site | None = None
        self._visits = visits
        self._files = PageFiles()
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters["number"] = lambda value: f"{value:,}".replace(",", "\u202f")
        environment.filters["moment"] = lambda value: f"{value:%Y-%m-%d %H:%M:%S}"
        self._template = environment.from_string(_TEMPLATE)

    def routes(self) -> list[Route]:
        """Return the routes."""
        methods = ["GET", "HEAD"]
        return [
            Route(PAGE, self._page, methods=methods),
            Route(f"{PAGE}/visits.json", self._document, methods=methods),
            Route(f"{PAGE}/{{name}}", self._files.answer, methods=methods),
        ]

    async def _page(self, request: Request) -> Response:
        """Show the visits."""
        name_endpoint(request, "visits")
        site = self._check(request)
        text = self._template.render(
            site=site,
            page=PAGE,
            most=MAX_VISITS,
            started=self._visits.started,
            total=sum(self._visits.counts.values()),
            counts=[(kind, self._visits.counts[kind]) for kind in KINDS],
            visits=list(self._visits.newest),
            colours=_COLOURS,
            style=self._files.style,
            version=__version__,
            kernel=active_kernel().name,
        )
        return Response(text, 200, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")

    async def _document(self, request: Request) -> Response:
        """Give the visits to scripts."""
        name_endpoint(request, "visits")
        self._check(request)
        return JSONResponse(self._visits.describe(), headers={"Cache-Control": "no-store"})

    def _check(self, request: Request) -> Site:
        """Return the site, to clients on this machine; there is nothing here for others."""
        host = None if request.client is None else request.client.host
        try:
            is_here = host is not None and ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_here = False
        if not is_here or self.site is None:
            raise not_found()
        return self.site
