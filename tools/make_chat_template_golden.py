"""Writes tests/golden/chat/templates.json: what transformers renders of templates (chat_template_families.py, and the small ones
below, a feature each), which engine/chat_template.h must equal byte for byte, or that it refuses to.

    python tools/make_chat_template_golden.py
"""

import datetime
import json
from typing import Any

import jinja2
import transformers
from transformers.utils import chat_template_utils

from chat_template_families import FAMILIES
from demo_corpus import REPOSITORY

OUT = REPOSITORY / "tests" / "golden" / "chat" / "templates.json"
NOW = datetime.datetime(2024, 7, 26, 9, 5, 6)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:
        return NOW


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(name: str, arguments: Any, id: str = "abcdefghi") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now> in a \"city\"",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Zürich, 東京"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "unit": {"type": "string", "enum": ["K", "°C"]},
                    "at": {"type": "object", "properties": {"lat": {"type": "number", "minimum": -90.0}}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}}},
]
TALK = [
    message("system", "  You answer in verse.\n"),
    message("user", "Hello & <good> day, it's \"me\"\n"),
    message("assistant", "<think>\nA greeting.\n</think>\n\nSalve! 👋"),
    message("user", "Und jetzt?\r\n\r\nÄhm"),
]
CALLS = [
    message("user", "Weather in Zürich?"),
    message("assistant", None, tool_calls=[call("weather", {"city": "Zürich", "days": [1, 2], "deep": {"a": None, "b": True, "c": 1.0}})]),
    message("tool", '{"t": 21.5}', tool_call_id="abcdefghi", name="weather"),
    message("tool", "sunny", tool_call_id="abcdefghi", name="weather"),
    message("assistant", "It is 21.5 degrees.", reasoning_content="\nEasy.\n", thinking="Easy."),
    message("user", "Thanks"),
]
TWO_CALLS = [
    message("system", "Sys"),
    message("user", "q"),
    message("assistant", "", tool_calls=[call("weather", {"city": "a"}), call("noop", {}, id="x")]),
]
BAD_ORDER = [message("assistant", "I begin"), message("user", "Then I")]
PARTS = [
    message("system", [{"type": "text", "text": "Look."}]),
    message("user", [{"type": "image"}, {"type": "text", "text": " What is it? "}]),
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def context(messages: list[Any], **more: Any) -> dict[str, Any]:
    return {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True, **TOKENS, **more}


CONTEXTS = {
    "talk": context(TALK),
    "talk_closed": context(TALK[:3], add_generation_prompt=False),
    "question": context(TALK[1:2], enable_thinking=False, reasoning_effort="high", controls={"length": "short"}),
    "tools": context(CALLS, tools=TOOLS),
    "calls": context(CALLS[:-1], documents=[{"title": "T", "text": "x\ny"}, {"title": "U", "text": "z"}]),
    "two_calls": context(TWO_CALLS, tools=TOOLS[1:]),
    "bad_order": context(BAD_ORDER),
    "parts": context(PARTS),
    "empty": context([]),
    "no_tokens": {**context(TALK[:2]), "bos_token": None, "eos_token": None},
}
VALUES = {
    "n": 5,
    "zero": 0,
    "f": 2.5,
    "s": "héllo wörld",
    "text": "one\n  two\n\nthree\n",
    "empty": "",
    "l": [3, 1, 2],
    "words": ["b", "A", "a", "C"],
    "d": {"b": 1, "a": [1, {"x": None}], "items": 7, "é": "ü"},
    "users": [{"name": "Bo", "age": 7, "tags": {"x": 1}}, {"name": "al", "age": 30}, {"name": "Cy", "age": None}],
    "yes": True,
    "nothing": None,
}

FEATURES = """
{{ s }} {{ n }} {{ f }} {{ yes }} {{ nothing }} {{ l }} {{ d }} {{ missing }}
{{ s[0] }}{{ s[-1] }}{{ s[1:4] }}{{ s[:-2] }}{{ s[::-1] }}{{ s[::2] }}{{ s[99] }}{{ s[5:2] }}{{ s[-3:] }}
{{ l[0] }}{{ l[-1] }}{{ l[1:] }}{{ l[::-1] }}{{ l[7] }}{{ l[:1] + [9] }}{{ (1, 2, 3)[1:] }}
{{ d.a[1].x }} {{ d['b'] }} {{ d.missing }} {{ d['items'] }} {{ d.items is defined }} {{ d.é }} {{ d.a.0 }}
{{ d.missing.deeper }}
{{ missing.deeper }}
{{ nothing.deeper }}|
{{ nothing.deeper.more }}
{{ missing + 1 }}
{{ 'a' + 1 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ 10 / 2 }} {{ 1e16 }} {{ 1e15 }} {{ 1.5e-7 }} {{ 0.0001 }} {{ 100000.0 }} {{ 3.0 * 2 }} {{ 1_000 }} {{ 0.1 + 0.2 }}
{{ 'a' ~ 1 ~ 2.0 ~ none ~ true ~ [1] ~ missing }}
{{ 'ab' * 3 }} {{ 2 * 'x' }} {{ [1] * 2 }} {{ 'x' * -1 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' != 'b' }} {{ [1, 2] == [1, 2] }} {{ (1,) == [1] }} {{ {'a': 1} == {'a': 1.0} }} {{ true == 1 }}
{{ 'a' < 1 }}
{{ 'ell' in 'hello' }} {{ 2 in l }} {{ 'b' in d }} {{ 'z' not in d }} {{ not 1 in l }} {{ 1 in missing }}
{{ 1 in 'abc' }}
{{ 1 in 5 }}
{{ not n }} {{ not zero }} {{ n and zero }} {{ zero or 'x' }} {{ empty or nothing or 0 }} {{ yes and not zero }}
{{ 'y' if yes else 'n' }} {{ 'y' if zero else 'n' }} {{ 'y' if zero }}| {{ 1 if zero else 2 if yes else 3 }}
{{ - n }} {{ +n }} {{ -n|abs }} {{ -f }} {{ --n }} {{ -true }}
{{-1}}|{{+1}}|{{ -1 }}
{{ [] }} {{ {} }} {{ () }} {{ (1,) }} {{ [1,] }} {{ {'a': 1,} }} {{ 1, 2 }}
{{ {1: 'a', true: 'b', none: 'c', 1.5: 'd'} }} {{ {'k': 1, 'k': 2} }}
{{ {[1]: 2} }}
{{ 'it\\'s' }} {{ "q\\"q" }} {{ 'a\\tb\\nc\\\\d' }} {{ '\\x41\\u00e9\\U0001f600' }} {{ '\\101\\q' }} {{ 'a' 'b' "c" }}
{{ ['it\\'s', "q\\"q", 'b\\'o"th', 'tab\\t', 'nl\\n', 'nul\\x00', 'é', '\\x7f', '\\xa0', '\\u200b', '😀', 'back\\\\slash'] }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }}
{% for x in l %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.previtem }}/{{ loop.nextitem }} {% endfor %}
{% for x in [] %}x{% else %}none{% endfor %}{% for x in l %}y{% else %}none{% endfor %}{% for x in missing %}z{% else %}none{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}={{ x }}{{ ',' if not loop.last }}{% endfor %}
{% for k, v in d.items() %}{{ k }}:{{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for v in d.values() %}{{ v }}{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for c in 'añb' %}[{{ c }}]{% endfor %}
{% for x in n %}{{ x }}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in 'ab' %}{{ loop.index }}{{ y }}{% if y == 'a' %}{% continue %}{% endif %}{{ x }}{% endfor %}{{ loop.index }} {% endfor %}
{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% break %}
{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}
{% set x = 1 %}{% if yes %}{% set x = 2 %}{% endif %}{{ x }}
{% set ns = namespace(a=1, b='') %}{% for i in l %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b ~ i %}{% endfor %}{{ ns.a }} {{ ns.b }} {{ ns.c }}|{{ ns }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}
{% set ns = namespace(_a=1) %}
{% set d.a = 1 %}
{% set a, b = 1, 'x' %}{{ b }}{{ a }}{% set (a, b) = (b, a) %}{{ b }}{{ a }}
{% set a, b = [1] %}
{% set x %}  in {{ n }}  {% endset %}[{{ x }}]{% set y | trim | upper %}  in {{ n }}  {% endset %}[{{ y }}]
{% set x = 1, 2 %}{{ x }}
{% macro f(a, b=2, c='x' ~ a) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=3) }} {{ f(b=1, a=0) }} {{ f() }} {{ f(1)|length }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}
{% macro f(x) %}{{ x }}{{ f(x - 1) if x else '' }}{% endmacro %}{{ f(4) }}
{% macro f() %}{{ x }}{% endmacro %}{{ f() }}|{% set x = 7 %}{{ f() }}{% for x in [8] %}{{ f() }}{% endfor %}
{% macro f() %}{% set n = 1 %}{{ n }}{% endmacro %}{{ f() }}{{ n }}
{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f(3) %}[{{ y }}{{ n }}]{% endcall %}
{% filter upper | replace('A', '_') %}abc {{ s }}{% endfilter %}
{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}
{% generation %}{{ s }}{% set s = 1 %}{% endgeneration %}{{ s }}
{% raw %}{{ s }}{% if %}{% endraw %}|{%- raw -%}  {{ x }}  {%- endraw -%}  |
{# a #}x{#- b -#} y {#
 c #}
z
{% if zero %}a{% elif empty %}b{% elif n > 4 %}c{% else %}d{% endif %}{% if zero %}a{% else %}e{% endif %}{% if zero %}a{% endif %}
{{ s | upper }} {{ s | lower }} {{ s | title }} {{ s | capitalize }} {{ s | length }} {{ s | count }} {{ l | length }} {{ d | length }} {{ 'ß' | upper }} {{ 'ΑΣ' | lower }} {{ 'ßx' | capitalize }}
{{ n | length }}
{{ '  a ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' \\n\\t\\u00a0a\\u2003' | trim }}|{{ 5 | trim }}
{{ l | join }} {{ l | join(', ') }} {{ users | join('; ', attribute='name') }} {{ 'abc' | join('-') }} {{ [none, 1.5, true] | join(' ') }}
{{ l | first }} {{ l | last }} {{ [] | first }}|{{ [] | last }}|{{ 'abc' | first }}{{ 'abc' | last }} {{ d | first }}
{{ missing | default('x') }} {{ empty | default('x') }}| {{ empty | default('x', true) }} {{ nothing | default('x') }} {{ missing | d }}| {{ d.zz | d(1) }}
{{ s | replace('l', 'L') }} {{ s | replace('l', 'L', 1) }} {{ 'aaa' | replace('', '-') }} {{ 5 | replace(5, 6) }}
{{ n | string + 'x' }} {{ nothing | string }} {{ l | string }} {{ missing | string }}|
{{ '12' | int }} {{ ' 12 ' | int }} {{ '1.9' | int }} {{ 'x' | int }} {{ 'x' | int(3) }} {{ 2.9 | int }} {{ -2.9 | int }} {{ true | int }} {{ nothing | int }} {{ '1f' | int(base=16) }} {{ '0x1F' | int(0, 16) }} {{ '1_000' | int }}
{{ '1.5' | float }} {{ 'x' | float }} {{ n | float }} {{ '1e3' | float }} {{ 'inf' | float }} {{ nothing | float(2.5) }}
{{ 'abc' | list }} {{ d | list }} {{ (1, 2) | list }} {{ range(3) | list }} {{ missing | list }}
{{ d | items | list }} {{ d.items() | list }} {{ d.keys() | list }} {{ missing | items | list }} {{ d.items() }} {{ d.keys() }}
{{ users | map(attribute='name') | list }} {{ users | map(attribute='tags.x', default='-') | list }} {{ words | map('upper') | list }} {{ ['a-b'] | map('replace', '-', '+') | list }} {{ users | map(attribute='name') | join(',') }}
{{ users | selectattr('age') | map(attribute='name') | list }} {{ users | selectattr('age', 'equalto', 7) | list }} {{ users | rejectattr('age', 'none') | list | length }} {{ users | selectattr('name', 'in', ['Bo', 'Cy']) | map(attribute='age') | list }} {{ users | selectattr('tags', 'defined') | list | count }} {{ users | rejectattr('age') | list }}
{{ l | select('>', 1) | list }} {{ l | reject('odd') | list }} {{ [0, 1, '', 'x', none] | select | list }} {{ [1, 'a'] | select('string') | list }}
{{ l | sort }} {{ l | sort(reverse=true) }} {{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ users | sort(attribute='name') | map(attribute='name') | list }} {{ d | sort }}
{{ [1, 'a'] | sort }}
{{ words | unique | list }} {{ words | unique(true) | list }} {{ [1, 1.0, true, 2] | unique | list }}
{{ l | reverse | list }} {{ 'abc' | reverse }} {{ (1, 2) | reverse | list }}
{{ n[1:] }}
{{ nothing | map('upper') | list }}{{ nothing | selectattr('x') | list }}{{ nothing | reject('odd') | list }}
{{ n | map('upper') | list }}
{{ missing | last }}|{{ missing | first }}|{{ missing | reverse | list }}
{{ l | min }} {{ l | max }} {{ l | sum }} {{ [] | sum }} {{ words | min }} {{ users | map(attribute='name') | max }} {{ [1.5, 2] | sum }} {{ [] | max }}|
{{ d | dictsort }} {{ {'b': 1, 'A': 2} | dictsort }} {{ {'b': 1, 'A': 2} | dictsort(true) }} {{ {'b': 1, 'A': 2} | dictsort(by='value', reverse=true) }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.675 | round(2) }} {{ 42 | round }} {{ 2.1 | round(method='ceil') }} {{ 2.19 | round(1, 'floor') }} {{ -2.5 | abs }} {{ -0.0 | round }}
{{ text | indent }}|{{ text | indent(2, true) }}|{{ text | indent('> ', blank=true) }}|{{ 'a' | indent }}
{{ '<a href="x">\\'&</a>' | e }} {{ '<b>' | escape }} {{ '<b>' | safe }}
{{ d | tojson }} {{ [1, 1.0, none, true, 'é"\\\\\\n\\t\\x01\\x7f/<>&\\'😀'] | tojson }} {{ (1, 2) | tojson }} {{ 'x' | tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }} {{ [] | tojson }} {{ {} | tojson }} {{ 1e300 | tojson }}
{{ d | tojson(indent=2) }}|{{ [[], {}, [1, [2]]] | tojson(indent=1) }}|{{ l | tojson(indent=0) }}|{{ l | tojson(indent='\\t') }}
{{ d | tojson(separators=(',', ':')) }} {{ d | tojson(sort_keys=true) }} {{ 'é😀' | tojson(ensure_ascii=true) }} {{ d | tojson(indent=2, separators=[', ', ' = ']) }}
{{ missing | tojson }}
{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 'x') | list }} {{ 'a b  c' | wordcount }} {{ 'ab' | center(6) }}|
{{ '%s is %d, %5.2f|%-5s|%05d|%x|%r|%%' | format('a', 3, 2.345, 'l', 42, 255, 'q') }} {{ '%s' % s }} {{ '%s-%s' % (1, [2]) }} {{ '%+d % d' % (1, 2) }}
{{ '%d' % 'x' }}
{{ '%s %s' % 'x' }}
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}'.format(1, 2) }} {{ '{x}-{y!r}'.format(x=1, y='q') }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:05d} {:.3f} {:,} {:+}'.format(42, 1.23456, 1234567, 3) }} {{ '{{}}{0[a]}{1.b}'.format({'a': 1}, {'b': 2}) }} {{ '{:x} {:%}'.format(255, 0.25) }}
{{ s.upper() }} {{ s.title() }} {{ "they're".title() }} {{ s.capitalize() }} {{ s.split('l') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b c '.split(none, 1) }} {{ ' a b c '.rsplit(none, 1) }} {{ ''.split(',') }} {{ ''.split() }}
{{ '  x '.strip() }}|{{ '  x '.lstrip() }}|{{ '  x '.rstrip() }}|{{ 'xyaxy'.strip('yx') }}|{{ 'éaé'.strip('é') }}|{{ '\\n\\nq\\n'.lstrip('\\n') }}
{{ s.startswith('hé') }} {{ s.endswith(('x', 'ld')) }} {{ s.find('w') }} {{ s.find('z') }} {{ s.index('w') }} {{ s.rfind('l') }} {{ s.count('l') }} {{ s.replace('l', '') }} {{ s.replace('l', '1', 2) }} {{ '-'.join(words) }} {{ 'a\\nb\\r\\nc'.splitlines() }} {{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=') }} {{ 'prefix'.removeprefix('pre') }} {{ 'a.txt'.removesuffix('.txt') }}
{{ s.index('z') }}
{{ ', '.join([1]) }}
{{ '12'.isdigit() }} {{ '1a'.isdigit() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ ''.isdigit() }} {{ '7'.zfill(3) }} {{ '-7'.zfill(3) }} {{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}|{{ 'ab'.center(5) }}|
{{ d.get('b') }} {{ d.get('zz') }} {{ d.get('zz', 1) }} {{ l.index(2) }} {{ l.count(3) }} {{ d.pop }}|
{{ l.append(4) }}
{{ d.update({'a': 1}) }}
{{ s.nosuch() }}
{{ nosuch() }}
{{ n() }}
{{ n is number }} {{ f is number }} {{ yes is number }} {{ n is integer }} {{ yes is integer }} {{ f is float }} {{ s is string }} {{ d is mapping }} {{ l is mapping }} {{ l is iterable }} {{ s is iterable }} {{ n is iterable }} {{ s is sequence }} {{ d is sequence }} {{ l is sequence }} {{ nothing is none }} {{ missing is none }} {{ yes is boolean }} {{ yes is true }} {{ 1 is true }} {{ false is false }}
{{ n is defined }} {{ missing is defined }} {{ missing is undefined }} {{ d.b is defined }} {{ d.zz is defined }} {{ n is not defined }} {{ nothing is defined }} {{ missing is iterable }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 5 }} {{ n is divisibleby(2) }} {{ n is eq 5 }} {{ n is equalto(5) }} {{ n is ne 5 }} {{ n is gt 3 }} {{ n is lessthan 3 }} {{ 1 is in l }} {{ 'A' is upper }} {{ 'a' is lower }} {{ n is sameas n }} {{ range is callable }} {{ 'tojson' is filter }} {{ 'nosuch' is filter }}
{{ n is not odd and yes }} {{ n is string or yes }} {{ 'x' if n is odd else 'y' }}
{{ range(3) | list }} {{ range(1, 4) | list }} {{ range(9, 0, -3) | list }} {{ range(0) | list }} {{ range(5)[1] }} {{ range(5)[1:3] | list }} {{ 3 in range(5) }}
{{ range(1000000) }}
{{ range(1, 2, 0) }}
{{ dict(a=1, b=n) }} {{ dict([('x', 1)]) }} {{ dict({'a': 1}, b=2) }}
{{ raise_exception('stop: ' ~ n) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %A %j %p %%') }}
a {%- if yes %} b {%+ if yes %} c {% endif -%} d{% endif +%}
{{ l | map('upper') | list }} {{ (l | map('string') | list)[0] }} {{ l | length > 2 }} {{ l | length * 2 }} {{ 'a' ~ l | length }}
{{ users[0].name }}{{ users[-1]['name'] }}{{ users[0]['tags'].x }}{{ (users | first).age }}{{ users[1:][0].name }}
{% set gen = users | selectattr('age') %}{% for u in gen %}{{ u.name }}{% endfor %}|{% for u in gen %}{{ u.name }}{% endfor %}
{% set x = namespace(v=[]) %}{% for i in l %}{% set x.v = x.v + [i * 2] %}{% endfor %}{{ x.v }}{{ x.v | sum }}
{% if s is string and s | length > 3 and 'w' in s or missing.deeper %}ok{% endif %}
{{ 'a' if missing else 'b' }} {{ missing or 'c' }} {{ missing == nothing }} {{ missing == other }} {{ not missing }}
"""

WHITE_SPACE = [
    "  {% if yes %}\n    a\n  {% endif %}\n  b\n",
    "x\n  {% if yes %}y{% endif %}\n  z",
    "x  {% if yes %}y{% endif %}\n\n  z",
    "  {%+ if yes %}y{% endif +%}\nz",
    "x\n\n  {%- if yes -%}\n\n  y  \n{%- endif -%}\n z",
    "x \n {{- n -}} \n y",
    " {{ n }} \n {{ n }}\n",
    "x\n  {# c #}\n  y\n  {#- c -#}\n  z",
    "a\r\nb\rc\n{{ 'x\r\ny' }}",
    "{% if yes %}\n\n{% endif %}\n\n",
    "{% for x in l %}\n  {{ x }}\n{% endfor %}\n",
    "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\n",
    "\n\n{{ n }}\n\n",
    "{% set x = 1 %}\n{% set y %}\n  a\n{% endset %}\n[{{ y }}]\n",
    "{% macro f() %}\n  m\n{% endmacro %}\n[{{ f() }}]",
    "  {% raw %}\n  {{ a }}\n  {% endraw %}\n b",
    "\u3000{%- if yes %} \u00a0{%- endif %}x",
    "plain text, { no } tags % } # at all }}",
    "",
    "\n",
    "{{ {'a': {'b': 1}}['a']['b'] }}{{ {'a': {'b': 1}} }}",
]

MALFORMED = [
    "{% if yes %}",
    "{% endif %}",
    "{% for x in l %}{% endif %}{% endfor %}",
    "{{ }}",
    "{{ n",
    "{{ 'x }}",
    "{# c",
    "{{ (1 }}",
    "{{ 1) }}",
    "{{ n | nosuch }}",
    "{{ n is nosuch }}",
    "{% nosuch %}",
    "{{ n ! }}",
    "{{ a.b. }}",
    "{% set 1 = 2 %}",
    "{% set true = 2 %}",
    "{{ f(a=1, 2) }}",
    "{% macro f(a=1, b) %}{% endmacro %}",
    "{% for x l %}{% endfor %}",
    "{{ 1 is odd is even }}",
    "{{ 'a\\x4' }}",
    "{% if %}x{% endif %}",
    "{{ [1, 2 }}",
    "{{ {'a' 1} }}",
    "{{ n if }}",
    "{% else %}",
]


def render(template: str, variables: dict[str, Any]) -> dict[str, str]:
    try:
        compiled = chat_template_utils._cached_compile_jinja_template(template)
        return {"expected": compiled.render(**{k: v for k, v in variables.items() if not (k.endswith("_token") and v is None)})}
    except Exception as error:  # templates raise whatever Python does
        answer = {"raises": type(error).__name__}
        if type(error) is jinja2.exceptions.TemplateError:  # by raise_exception
            answer["message"] = str(error)
        return answer


def main() -> None:
    chat_template_utils.datetime = FixedClock
    cases = []
    for family, template in FAMILIES.items():
        for name, variables in CONTEXTS.items():
            cases.append({"name": f"{family}/{name}", "template": template, "context": name, **render(template, variables)})
    small = FEATURES.strip("\n").split("\n")
    small = [line for line in "\n".join(small).replace("{#\n c #}\nz", "{#\x00 c #}\x00z").split("\n")]
    small = [line.replace("\x00", "\n") for line in small]
    for template in small + WHITE_SPACE + MALFORMED:
        cases.append({"template": template, "context": "values", **render(template, VALUES)})
    golden = {
        "source": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
        "now": NOW.isoformat(),
        "contexts": {**CONTEXTS, "values": VALUES},
        "cases": cases,
    }
    OUT.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    raising = sum("raises" in case for case in cases)
    print(f"{OUT}: {len(cases)} cases, of which {raising} raise")


if __name__ == "__main__":
    main()
