"""Every class of mistake, with its exact place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.settings import mistakes

# A configuration without mistakes; tests add lines behind it or change one.
GOOD = """\
upstreams:
  bank: {url: http://127.0.0.1:8081}
identity:
  - {from: watched_form, upstream: bank, path: /login, claims: {expired: {cookie: pw}}}
mail: {smtp: smtp://127.0.0.1, from: a@b.example}
steps:
  quiz: {kind: quiz}
  code: {kind: mailed, to: abc}
rules:
  - name: one
    match: {path: /a/**}
    require: [quiz]
"""

FORWARD_AUTH_ONE = "forward_auth.edge: needs exactly one of `listen` (an address of its own) and `secret`"
OAUTH = "upstreams.bank.oauth"
PLAIN = "is not a plain path; write /letters-digits/… without a trailing slash"
FORWARD_AUTH_DIALECTS = "forward_auth.edge.dialect: must be one of nginx, traefik, caddy, envoy"


def marked(text: str) -> tuple[str, str]:
    """A text without its ▸, and `line:column` of what stood behind it."""
    before, mark, behind = text.partition("▸")
    assert mark
    return before + behind, f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_a_good_configuration_has_no_mistakes(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("▸lsten: 127.0.0.1:80", 'lsten: unknown key; did you mean "listen"?'),
        ("▸zzz: 1", "zzz: unknown key"),
        ("▸oauth: {}", "oauth: unknown key here; it belongs in `upstreams.NAME`"),
        ("▸intercept: {}", "intercept: unknown key here; it belongs in a rule"),
        (
            (
                "begin: {idp: {issuer: a, audience: b, jwks_url: https://a.example/k, continue_url: https://a.example/c, "
                "steps: [quiz], token_parameter: ▸my token}}"
            ),
            "begin.idp.token_parameter: must be 1 to 64 letters, digits, `_`, `.` or `-`",
        ),
        ("listen: ▸8080", "listen: is not text; put it in quotes"),
        ("listen: ▸nonsense", "listen: is not an address; write host:port, for example 127.0.0.1:8080 or [::1]:8080"),
        ("tls: ▸{cert_file: gateway.yaml}", "tls.key_file: missing"),
        ("tls: ▸yes", "tls: is not a mapping; write `key: value` lines"),
        ("tls: {cert_file: gateway.yaml, key_file: ▸none.pem}", "tls.key_file: cannot read none.pem: No such file or directory"),
        ("public_url: [http://a, ▸ftp://b]", "public_url[1]: is not an origin; write scheme://host[:port] and nothing behind it"),
        ("public_url: ▸http://a/b", "public_url: is not an origin; write scheme://host[:port] and nothing behind it"),
        ("public_url: ▸[]", "public_url: must not be empty"),
        ("trusted_proxies: ▸10.0.0.0/8", "trusted_proxies: is not a list; write [a, b] or `- a` lines"),
        (
            "trusted_proxies: [10.0.0.0/8, ▸ten]",
            "trusted_proxies[1]: is not a network; write an address or CIDR range: 10.0.0.0/8, 192.0.2.7, fd00::/8",
        ),
        ("admin: {listen: ▸0.0.0.0:8090}", "admin.listen: off loopback the admin listener needs `token`"),
        ("admin: {listen: ▸127.0.0.1:8080}", "admin.listen: the public and the admin listener cannot have one address"),
        ("admin: {token: ▸short}", "admin.token: must have at least 16 characters"),
        ("forward_auth: {edge: {dialect: ▸apache, listen: 127.0.0.1:9091}}", FORWARD_AUTH_DIALECTS),
        ("forward_auth: {edge: ▸{listen: 127.0.0.1:9091}}", "forward_auth.edge.dialect: missing"),
        ("forward_auth: {▸edge: {dialect: nginx}}", FORWARD_AUTH_ONE),
        ("forward_auth: {▸edge: {dialect: nginx, listen: 127.0.0.1:9091, secret: a-secret-of-sixteen}}", FORWARD_AUTH_ONE),
        ("forward_auth: {edge: {dialect: nginx, secret: ▸short}}", "forward_auth.edge.secret: must have at least 16 characters"),
        (
            'forward_auth: {edge: {dialect: nginx, secret: ▸"a secret of sixteen "}}',
            "forward_auth.edge.secret: is sent in a header: printable ASCII, without blanks around it",
        ),
        (
            "forward_auth: {a: {dialect: nginx, secret: a-secret-of-sixteen}, b: {dialect: caddy, secret: ▸a-secret-of-sixteen}}",
            "forward_auth.b.secret: is that of another proxy too; each has its own",
        ),
        (
            "forward_auth: {edge: {dialect: nginx, listen: ▸9091}}",
            "forward_auth.edge.listen: is not text; put it in quotes",
        ),
        (
            'forward_auth: {edge: {dialect: nginx, listen: ▸":9091"}}',
            "forward_auth.edge.listen: names no host; write 127.0.0.1:9091",
        ),
        (
            "forward_auth: {edge: {dialect: nginx, listen: ▸127.0.0.1:8080}}",
            "forward_auth.edge.listen: is the address of the public listener already",
        ),
        (
            "forward_auth: {a: {dialect: nginx, listen: 127.0.0.1:9091}, b: {dialect: caddy, listen: ▸127.0.0.1:9091}}",
            "forward_auth.b.listen: is the address of forward_auth.a already",
        ),
        (
            "forward_auth: {▸a b: {dialect: nginx, listen: 127.0.0.1:9091}}",
            'forward_auth["a b"]: the name of a proxy is 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit',
        ),
        ("forward_auth: {edge: {dialect: nginx, ▸lsten: 127.0.0.1:9091}}", 'forward_auth.edge.lsten: unknown key; did you mean "listen"?'),
        ("introspection: ▸{}", "introspection.clients: missing"),
        ("introspection: {clients: ▸{}}", "introspection.clients: must not be empty"),
        ("introspection: {clients: {api: ▸{audience: bank}}}", "introspection.clients.api.secret: missing"),
        (
            "introspection: {clients: {api: {secret: ▸short, audience: bank}}}",
            "introspection.clients.api.secret: is 32 characters or more of ASCII without blanks",
        ),
        (
            f"introspection: {{clients: {{api: {{secret: [{'a' * 32}, ▸{'b' * 31}ü], audience: bank}}}}}}",
            "introspection.clients.api.secret[1]: is 32 characters or more of ASCII without blanks",
        ),
        (
            f"introspection: {{clients: {{a: {{secret: {'a' * 32}, audience: bank}}, b: {{secret: ▸{'a' * 32}, audience: bank}}}}}}",
            'introspection.clients.b.secret: is shared with "a" already (introspection.clients.a); each party needs a secret of its own',
        ),
        (
            f"introspection: {{clients: {{▸a b: {{secret: {'a' * 32}, audience: bank}}}}}}",
            'introspection.clients["a b"]: a client id is 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit',
        ),
        ("stores: {state: ▸'memory://'}", 'stores.state: no store "memory://"'),
        ("stores: {records: ▸'x://y'}", 'stores.records: no store "x://y"'),
        ("continue_path: ▸/.stepup/go", "continue_path: `continue_path` (/.stepup/go) lies under `prefix` (/.stepup)"),
        ("prefix: ▸/continue", "prefix: `continue_path` (/continue) lies under `prefix` (/continue)"),
        ("theme: {color: ▸blue}", 'theme.color: is not a colour; write "#1d4ed8" (in quotes: # begins a comment)'),
        ("theme: {logo: ▸none.svg}", "theme.logo: cannot read none.svg: No such file or directory"),
        ("theme: {logo: ▸gateway.yaml}", "theme.logo: is neither SVG nor PNG by its name"),
        ("theme: {support_url: ▸'javascript:x'}", "theme.support_url: is not a link; write https://… or mailto:…"),
        ("guessing: {window: ▸0s}", "guessing.window: must be more than 0s"),
        ("passes: {max_age: ▸0s}", "passes.max_age: must be more than 0s"),
        ("transactions: {ttl: ▸0ms}", "transactions.ttl: must be more than 0s"),
        ("limits: {answer_body: ▸0}", "limits.answer_body: must be at least 1"),
        ("transactions: {ttl: ▸600}", "transactions.ttl: is not a duration; write a number with a unit: 250ms, 30s, 5m, 12h, 7d"),
        (
            "transactions: {max_body: ▸1 MB?}",
            "transactions.max_body: is not a size; write bytes or a number with a unit: 65536, 64KiB, 1MiB",
        ),
        ("transactions: {max_total: ▸many}", "transactions.max_total: is not a number"),
        ("transactions: {max_total: ▸1.5}", "transactions.max_total: is not a whole number"),
        ("transactions: {max_total: ▸0}", "transactions.max_total: must be at least 1"),
        ("tokens: {upstream_ttl: ▸2m}", "tokens.upstream_ttl: must be at most 1m"),
        ("log: {level: ▸inf}", 'log.level: must be one of debug, info, warning, error; did you mean "info"?'),
        ("secrets: {key_file: ▸.}", "secrets.key_file: cannot read .: Is a directory"),
        ("rules_dir: ▸none.d", "rules_dir: cannot read none.d: No such file or directory"),
        ("routes: ▸{}", "routes: is not a list; write [a, b] or `- a` lines"),
        ("routes: [{upstream: ▸bnak}]", 'routes[0].upstream: no upstream named "bnak"; did you mean "bank"?'),
        ("routes: [▸{path: /x}]", "routes[0].upstream: missing"),
        (
            "routes:\n  - {upstream: bank, path: ▸x}",
            "routes[0].path: a path begins with `/` (or the pattern with `**` or `re:`) (at character 1)",
        ),
        ("log: {level: info}\nlisten: a:1\n▸log: {}", "log: given twice; first in line 13"),
        ("log: {level: ▸!x info}", "log.level: unknown tag !x"),
        ("theme: {name: ▸'${NOPE}'}", "theme.name: environment variable NOPE is not set"),
        ("theme: {name: ▸'${file:none}'}", "theme.name: cannot read none: No such file or directory"),
    ],
)
def test_sections(tmp_path: Path, lines: str, said: str) -> None:
    text, place = marked(f"{GOOD}{lines}\n")
    assert mistakes(tmp_path, text) == [f"gateway.yaml:{place}: {said}"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{url: http://127.0.0.1:8081", "▸{", "upstreams.bank.url: missing"),
        (
            "http://127.0.0.1:8081",
            "http://a, health: {path: /, ▸intrval: 1s}",
            'upstreams.bank.health.intrval: unknown key; did you mean "interval"?',
        ),
        ("http://127.0.0.1:8081", "▸http://a/b", "upstreams.bank.url: an upstream's URL has no path; write http://host:port"),
        ("http://127.0.0.1:8081", "[http://a, ▸http://u:p@b]", "upstreams.bank.url[1]: an upstream's URL holds no user or password"),
        (
            "http://127.0.0.1:8081",
            "http://a, ▸oauth: {}",
            OAUTH + ": names no endpoint; write `authorize`, `token`, `resource_owner` or `par`",
        ),
        ("http://127.0.0.1:8081", "http://a, oauth: {token: ▸/x/}", OAUTH + ".token: " + PLAIN),
        ("http://127.0.0.1:8081", "http://a, oauth: {token: ▸/continue}", OAUTH + ".token: is the path of `continue_path` already"),
        ("http://127.0.0.1:8081", "http://a, oauth: {token: ▸/.stepup/x}", OAUTH + ".token: lies under `prefix` (/.stepup)"),
        (
            "http://127.0.0.1:8081",
            "http://a, oauth: {authorize: /a, token: ▸/a, session_cookie: s}",
            OAUTH + ".token: is the path of `authorize` already",
        ),
        ("http://127.0.0.1:8081", "http://a, oauth: {token: /t, par: ▸/p}", OAUTH + ".par: is of no use without `authorize`"),
        (
            "http://127.0.0.1:8081",
            "http://a, oauth: {token: /t, session_cookie: ▸s}",
            OAUTH + ".session_cookie: is of no use without `authorize`",
        ),
        (
            "http://127.0.0.1:8081",
            "http://a, oauth: {authorize: /a, session_cookie: ▸stepup}",
            OAUTH + '.session_cookie: "stepup" is not the name of a cookie of the provider',
        ),
        ("http://127.0.0.1:8081", "http://a, tls: ▸{}", "upstreams.bank.tls: is for https:// URLs, and there is none here"),
        (
            "http://127.0.0.1:8081",
            "https://a, tls: ▸{cert_file: gateway.yaml}",
            "upstreams.bank.tls: `cert_file` and `key_file` come together",
        ),
        (
            "http://127.0.0.1:8081",
            "https://a, tls: {ca_file: ▸none}",
            "upstreams.bank.tls.ca_file: cannot read none: No such file or directory",
        ),
        ("{smtp: smtp://127.0.0.1, from: a@b.example", "▸{from: a@b.example", "mail: needs `smtp`, the server that takes mail"),
        (
            "smtp://127.0.0.1",
            "▸http://127.0.0.1",
            "mail.smtp: is not the URL of a mail server; write smtp://[user:password@]host:port, smtps://… or smtp+starttls://…",
        ),
        ("a@b.example", "▸nobody", "mail.from: is not a mail address"),
        (
            "mail: {smtp: smtp://127.0.0.1, from: a@b.example}\nsteps:\n  quiz: {kind: quiz}\n  code: {kind: mailed",
            "\nsteps:\n  quiz: {kind: quiz}\n  code: ▸{kind: mailed",
            "steps.code: sends mail, so the section `mail` is needed",
        ),
        (": bank", ": ▸bunk", 'identity[0].upstream: no upstream named "bunk"; did you mean "bank"?'),
        ("watched_form", "▸watched_from", 'identity[0].from: no identity source named "watched_from"; did you mean "watched_form"?'),
        ("watched_form", "▸jwt", "identity[0].from: not in this version"),
        (
            "{from: watched_form, upstream: bank, path: /login, claims: {expired: {cookie: pw",
            "▸{from: watched_form, upstream: bank,  claims: {expired: {cookie: pw",
            "identity[0].path: missing",
        ),
        ("/login", "▸login", "identity[0].path: must begin with /"),
        ("pw", "pw, ▸cokie: x", 'identity[0].claims.expired.cokie: unknown key; did you mean "cookie"?'),
        (": quiz", ": ▸quitz", 'steps.quiz.kind: no kind of step named "quitz"; did you mean "quiz"?'),
        ("{kind: quiz", "▸{level: 1", "steps.quiz.kind: missing"),
        (": quiz", ": ▸[quiz]", "steps.quiz.kind: is not text"),
        ("{kind: quiz}", "▸quiz", "steps.quiz: is not a mapping; write `key: value` lines"),
        (": quiz", ": quiz, level: ▸9", "steps.quiz.level: must be at most 5"),
        (": quiz", ": quiz, ttl: ▸2h", "steps.quiz.ttl: must be at most 1h"),
        ("abc", "▸ab", "steps.code.to: must have at least 3 characters"),
        ("{kind: mailed, to: abc", "▸{kind: mailed", "steps.code: letters need `to`"),
        ("abc", "abc, methods: [▸postcrd]", 'steps.code.methods[0]: must be one of letter, postcard; did you mean "postcard"?'),
        (
            "abc",
            "abc, claims: {x: ▸[]}",
            "steps.code.claims.x: is not text, and is not a number, and is not a boolean; write true or false",
        ),
        (
            "rules:",
            "  ▸qu/iz: {kind: quiz}\nrules:",
            'steps["qu/iz"]: the name of a step is 1 to 64 letters, digits, `_`, `.` or `-`, and begins with a letter or digit',
        ),
        ("quiz]", "quiz, ▸cod]", 'rules[0].require[1]: no step named "cod"; did you mean "code"?'),
        ("[quiz]", "▸qiz", 'rules[0].require: no step named "qiz"; did you mean "quiz"?'),
        ("[quiz]", "▸[]", "rules[0].require: must not be empty"),
        (
            "name: one\n    match: {path: /a/**}\n    require: [quiz]",
            "▸name: one\n    match: {path: /a/**}",
            "rules[0]: needs exactly one of require, deny, allow and python; it has none",
        ),
        (
            "name: one\n    match: {path: /a/**}\n    require: [quiz]",
            "▸name: one\n    match: {path: /a/**}\n    require: [quiz]\n    allow: true",
            "rules[0]: needs exactly one of require, deny, allow and python; it has require and allow",
        ),
        ("require: [quiz]", "deny: {status: ▸200}", "rules[0].deny.status: must be at least 400"),
        ("quiz]", "quiz]\n    ▸except_: {path: /x}", 'rules[0].except_: unknown key; did you mean "except"?'),
        ("quiz]", "quiz]\n    max_age: ▸0s", "rules[0].max_age: must be more than 0s; write `once` to ask each time"),
        ("quiz]", "quiz]\n    max_age: ▸5", "rules[0].max_age: is not a duration; write a number with a unit: 250ms, 30s, 5m, 12h, 7d"),
        (
            "quiz]",
            "quiz]\n    enabled: ▸no",
            "rules[0].enabled: is not a boolean; write true or false (YAML 1.2: yes, no, on and off are text)",
        ),
        ("quiz]", "quiz]\n    replay: ▸confrim", 'rules[0].replay: must be one of auto, confirm, off; did you mean "confirm"?'),
        (
            "quiz]",
            "quiz]\n    when: subject.claims.▸expird",
            'rules[0].when: no claim named "expird" is declared; did you mean "expired"? (at character 16)',
        ),
        ("quiz]", "quiz]\n    when: 'request.form.a > 1 &&▸'", "rules[0].when: the condition ends too early (at character 22)"),
        (
            "quiz]",
            "quiz]\n    when: |\n      request.method == 'GET' &&\n        request.▸froms.a > 1",
            'rules[0].when: "request" has no field "froms"; did you mean "form"? (at character 38)',
        ),
        (
            "quiz]",
            "quiz]\n    when: ▸>\n      request.froms.a\n      > 1",
            'rules[0].when: "request" has no field "froms"; did you mean "form"? (at character 9)',
        ),
        ("one", "▸a b", "rules[0].name: must be 1 to 64 letters, digits, `_`, `.` or `-`, and begin with a letter or digit"),
        ("name: one", "▸who: any", "rules[0].name: missing"),
        ("one", "▸1", "rules[0].name: is not text; put it in quotes"),
        ("path: /a/**", "▸pth: /a/**", 'rules[0].match.pth: unknown key; did you mean "path"?'),
        ("/a/**", "[/a, 're:▸(']", "rules[0].match.path[1]: is not a regular expression (RE2): missing ): ( (at character 4)"),
        ("path: /a/**", "method: ▸GTE", 'rules[0].match.method: no method named "GTE"; did you mean "GET"?'),
        ("path: /a/**", "header: {x y: ▸'*'}", 'rules[0].match.header["x y"]: "x y" is not the name of a header'),
        ("path: /a/**", "upstream: [bank, ▸back]", 'rules[0].match.upstream[1]: no upstream named "back"; did you mean "bank"?'),
    ],
)
def test_entries(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    text, place = marked(GOOD.replace(old, new))
    assert mistakes(tmp_path, text) == [f"gateway.yaml:{place}: {said}"]


def test_rules_of_one_name_are_told_at_the_second(tmp_path: Path) -> None:
    text = GOOD + "  - {name: two, require: [code]}\n  - {name: one, require: [code]}\n"
    assert mistakes(tmp_path, text) == ['gateway.yaml:14:12: rules[2].name: a rule named "one" stands at gateway.yaml:10 already']


def test_steps_of_one_name_are_told_at_the_second(tmp_path: Path) -> None:
    text = GOOD.replace("rules:\n", "  quiz: {kind: mailed, to: abc}\nrules:\n")
    assert mistakes(tmp_path, text) == ["gateway.yaml:9:3: steps.quiz: given twice; first in line 7"]


def test_a_rule_that_never_has_its_turn(tmp_path: Path) -> None:
    text = GOOD.replace("require: [quiz]", "deny: {}") + "  - {name: two, match: {path: /a/**}, require: [code]}\n"
    assert mistakes(tmp_path, text) == [
        'gateway.yaml:13:5: rules[1]: can never match: the deny of "one" before it ends the run for the same requests'
    ]


def test_several_upstreams_need_routes(tmp_path: Path) -> None:
    text = GOOD.replace("identity:", "  shop: {url: http://127.0.0.1:8082}\nidentity:")
    assert mistakes(tmp_path, text) == ["gateway.yaml:1:1: upstreams: there are several, so `routes` must say which one serves a request"]
    assert mistakes(tmp_path, text + "routes: [{host: shop.example, upstream: shop}, {upstream: bank}]\n") == []


def test_all_mistakes_are_told_at_once_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "rules.d" / "20-b.yaml").write_text("rules:\n  - {name: one, require: [cod]}\n")
    (tmp_path / "rules.d" / "10-a.yml").write_text("rule: []\n")
    (tmp_path / "rules.d" / "30-c.yaml").write_text("rules: [\n")
    (tmp_path / "rules.d" / "40-d.yaml").write_text("- x\n")
    (tmp_path / "rules.d" / "notes.txt").write_text("nothing: [\n")
    text = """\
listen: x
upstreams:
  bank: {url: http://a, health: 5}
  shop: {}
  many: {url: http://b, bogus: 1}
routes: [{upstream: bank}, {upstream: shp, hots: x}]
identity: [{from: watched_form, upstream: bnk, path: /l, pth: 1}]
steps: {quiz: {kind: quiz, lvel: 1}, code: {kind: cod}}
rules_dir: rules.d
rules:
  - {name: one, match: {hst: x}, require: [qiz], when: request.x}
  - {match: {path: x}, require: code, mode: shadwo, when: "1 +"}
  - {name: three, require: quiz, when: "subject.claims.nope"}
  - just text
"""
    assert mistakes(tmp_path, text) == [
        "gateway.yaml:1:9: listen: is not an address; write host:port, for example 127.0.0.1:8080 or [::1]:8080",
        "gateway.yaml:3:33: upstreams.bank.health: is not a mapping; write `key: value` lines",
        "gateway.yaml:4:9: upstreams.shop.url: missing",
        "gateway.yaml:5:25: upstreams.many.bogus: unknown key",
        'gateway.yaml:6:39: routes[1].upstream: no upstream named "shp"; did you mean "shop"?',
        'gateway.yaml:6:44: routes[1].hots: unknown key; did you mean "host"?',
        'gateway.yaml:7:43: identity[0].upstream: no upstream named "bnk"; did you mean "bank"?',
        'gateway.yaml:7:58: identity[0].pth: unknown key; did you mean "path"?',
        'gateway.yaml:8:28: steps.quiz.lvel: unknown key; did you mean "level"?',
        'gateway.yaml:8:51: steps.code.kind: no kind of step named "cod"',
        'gateway.yaml:11:25: rules[0].match.hst: unknown key; did you mean "host"?',
        'gateway.yaml:11:44: rules[0].require[0]: no step named "qiz"; did you mean "quiz"?',
        'gateway.yaml:11:64: rules[0].when: "request" has no field "x" (at character 9)',
        "gateway.yaml:12:5: rules[1].name: missing",
        "gateway.yaml:12:20: rules[1].match.path: a path begins with `/` (or the pattern with `**` or `re:`) (at character 1)",
        'gateway.yaml:12:45: rules[1].mode: must be one of enforce, shadow; did you mean "shadow"?',
        "gateway.yaml:12:63: rules[1].when: the condition ends too early (at character 4)",
        'gateway.yaml:13:56: rules[2].when: no claim named "nope" is declared (at character 16)',
        "gateway.yaml:14:5: rules[3]: is not a mapping; write `key: value` lines",
        'rules.d/10-a.yml:1:1: rule: unknown key; a file of rules holds `rules` only; did you mean "rules"?',
        'rules.d/20-b.yaml:2:12: rules[0].name: a rule named "one" stands at gateway.yaml:11 already',
        'rules.d/20-b.yaml:2:27: rules[0].require[0]: no step named "cod"; did you mean "code"?',
        "rules.d/30-c.yaml:2:1: not valid YAML: did not find expected node content",
        "rules.d/40-d.yaml:1:1: is not a mapping; write `rules:` and the rules below",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: upstreams: missing"),
        ("# nothing\n", "1:1: upstreams: missing"),
        ("- a\n", "1:1: is not a mapping; write `key: value` lines"),
        ("upstreams: {}\n", "1:12: upstreams: must not be empty"),
        ("upstreams:\n", "1:11: upstreams: is not a mapping; write `key: value` lines"),
        ("upstreams: {a: {url: http://b}}\nrules:\n\t- x\n", "3:1: not valid YAML: no value can start with this character"),
    ],
)
def test_files_that_hold_nothing_of_use(tmp_path: Path, text: str, said: str) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(f"gateway.yaml:{said}"[:40])


class TestSecrets:
    """What came from `${…}` is never repeated."""

    SECRET = "hunter2-Swordfish"

    @pytest.mark.parametrize(
        "lines",
        [
            "listen: '${S}'",
            "public_url: 'http://x:${S}'",
            "stores: {state: '${S}'}",
            "stores: {state: 'redis://u:${S}@h'}",
            "admin: {listen: '127.0.0.1:${S}'}",
            "log: {level: '${S}'}",
            "theme: {logo: '${S}'}",
            "rules_dir: '${S}'",
            "routes: [{upstream: '${S}'}]",
            "routes: [{upstream: bank, path: '${S}'}]",
            "transactions: {ttl: '${S}', max_total: '${S}'}",
            "zzz: '${S}'",
            "secrets: {key_file: './${S}/.'}",
        ],
    )
    def test_in_sections(self, tmp_path: Path, lines: str) -> None:
        said = mistakes(tmp_path, f"{GOOD}{lines}\n", {"S": self.SECRET}) or ["none"]
        if "key_file" not in lines:
            assert said != ["none"]
        assert not any(part in line.lower() for line in said for part in ("hunter2", "swordfish"))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("require: [quiz]", "require: ['${S}']"),
            ("require: [quiz]", "require: [quiz]\n    when: 'request.${S}'"),
            ("require: [quiz]", "require: [quiz]\n    when: '${S}'"),
            ("{path: /a/**}", "{method: '${S}'}"),
            ("{path: /a/**}", "{path: '${S}'}"),
            ("{path: /a/**}", "{path: 're:(${S}'}"),
            ("{path: /a/**}", "{network: '${S}'}"),
            ("{path: /a/**}", "{upstream: '${S}'}"),
            ("{kind: quiz}", "{kind: '${S}'}"),
            ("to: abc", "to: abc, methods: '${S}'"),
            ("url: http://127.0.0.1:8081", "url: 'http://${S}:x'"),
        ],
    )
    def test_in_entries(self, tmp_path: Path, old: str, new: str) -> None:
        said = mistakes(tmp_path, GOOD.replace(old, new), {"S": self.SECRET})
        assert said != []
        assert not any(part in line.lower() for line in said for part in ("hunter2", "swordfish"))

    def test_the_name_is_said_instead(self, tmp_path: Path) -> None:
        assert mistakes(tmp_path, GOOD + "stores: {state: '${S}'}\n", {"S": "zzz"}) == [
            "gateway.yaml:13:17: stores.state: the value that comes from ${S} does not fit here"
        ]

    def test_in_the_mistake_of_another_place(self, tmp_path: Path) -> None:
        text = (
            GOOD.replace("require: [quiz]", "deny: {}").replace("name: one", "name: '${S}'")
            + "  - {name: two, match: {path: /a/**}, allow: true}\n"
        )
        assert mistakes(tmp_path, text, {"S": "hunter2"}) == [
            "gateway.yaml:13:5: rules[1]: the value that comes from ${S} does not fit here"
        ]

    def test_a_message_without_the_value_stays_as_it_is(self, tmp_path: Path) -> None:
        assert mistakes(tmp_path, GOOD + "transactions: {max_total: '${S}'}\n", {"S": "zzz"}) == [
            "gateway.yaml:13:27: transactions.max_total: is not a number"
        ]
