"""Chat templates come with the model, from strangers: they must not escape, loop or explode."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time

import pytest

from edged.api.requests import Message
from edged.worker import template as module
from edged.worker.confine import OutOfTime, confined
from edged.worker.template import ChatTemplate, TemplateError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MESSAGES = (Message(role="system", content="Be brief."), Message(role="user", content=" hé? "))


def render(source: str, messages=MESSAGES, *, thinking: bool = False, limit_chars: int = 100_000) -> str:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    return "".join(template.render(messages, thinking=thinking, limit_chars=limit_chars))


def test_a_common_template_renders_the_conversation():
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhé?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}|{{ eos_token }}|{{ enable_thinking }}|{{ tools is none }}", "<s>|</s>|False|True"),
        (
            "{% set n = namespace(x=0) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
            "3",
        ),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
        ("{{ messages[0]['content'].split(' ')[-1].upper().strip('.') }}", "BRIEF"),
        ("{{ messages | map(attribute='role') | join(',') }}", "system,user"),
        ("{{ (messages | selectattr('role', 'equalto', 'user') | list | length) * 2 % 3 }}", "2"),
        ("{{ '-' * 3 }}{{ [1, 2] | tojson }}{{ messages[::-1][0].role }}", "---[1, 2]user"),
        ("{{ 'a,b'.replace(',', ';').startswith('a') }}{{ 7 // 2 }}{{ 1 / 4 }}", "True30.25"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}{{ strftime_now('%Y') | int > 2000 }}", "012True"),
    ],
)
def test_what_real_templates_use_works(source, text):
    assert render(source) == text


def test_a_template_may_refuse_a_conversation_in_its_own_words():
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


# What a template would reach for on its way out: attributes, globals, loaders, formats, filters.
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ '' | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | map(attribute='__mro__') | list }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
    "{{ '{0.__class__}' | format(1) }}",
    "{{ '%s' % namespace }}",
    "{{ ('%s' | safe) % namespace }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ range.__self__ }}{{ strftime_now.__closure__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}{{ joiner }}{{ dict }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ messages.append({'role': 'user'}) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% extends '/etc/passwd' %}",
    "{{ (1).__class__.__base__ }}{{ [].__reduce_ex__(2) }}",
    "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._func }}",
    "{{ 'x'.encode().decode }}",
    "{{ ''.join.__self__.__class__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_template_reaches_beyond_its_data(source):
    try:
        text = render(source)
    except TemplateError:
        return
    for sign in ("<class", "<function", "<built-in", "<module", "environ", "root:", "{'", "<Environment"):
        assert sign not in text


# Each would build gigabytes, count for years, or be refused only by Python's own limits.
BOMBS = [
    "{{ 'a' * 10000000000 }}",
    "{{ 10000000000 * 'a' }}",
    "{{ [1] * 10000000000 }}",
    "{{ 2 ** 100000000 }}",
    "{% set ns = namespace(x=3) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "{{ (('f' * 1000000) | int(base=16)) // 3 }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "{% set n=namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x * 2 }}{% endset %}{% endfor %}",
    "{% set x = 'a' * 100000 %}{{ x.replace('a', x) | length }}",
    "{% set x = 'a' * 100000 %}{{ x | replace('a', x) | length }}",
    "{% set x = 'a' * 100000 %}{{ x.join(x) | length }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ 'a'.center(10000000000) }}",
    "{{ 'a'.ljust(10000000000) }}",
    "{{ 'a'.rjust(10000000000) }}",
    "{{ 'a'.zfill(10000000000) }}",
    "{{ '\t'.expandtabs(10000000000) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{x:10000000000}'.format_map({'x': 1}) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ 'a\na' | indent(10000000000) }}",
    "{{ [1] | batch(10000000000, 1) | list }}",
    "{{ [1] | slice(10000000000) | list }}",
    "{{ [[1] * 4000] * 4000 | sum(start=[]) | length }}",
    "{{ strftime_now('%d' * 1000000) }}",
    "{% for i in range(10000000000) %}{% endfor %}",
    "{% for i in range(100000000000000000000000000000) %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "{{ [" * 3000,
    "{{ '\\ud800' }}",
    "{% if",
    "{{ 1 / 0 }}",
    "{{ nothing.at.all }}",
    "x" * (module.MAX_TEMPLATE_BYTES + 1),
    "{% for i in range(4000) %}{{ 'x' * 1000 }}{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS, ids=range(len(BOMBS)))
def test_no_template_explodes(source):
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateError):
        render(source)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib <= module.RENDER_EXTRA_BYTES >> 20
    assert time.monotonic() - started < 4 * module.RENDER_LIMIT_S


LOOPS = [
    "{% set r = range(4000) %}{% for a in r %}{% for b in r %}{% for c in r %}" + "{% endfor %}" * 3,
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
]


@pytest.mark.parametrize("source", LOOPS)
def test_no_template_loops_for_ever(source, monkeypatch):
    monkeypatch.setattr(module, "RENDER_LIMIT_S", 0.2)
    started = time.monotonic()
    with pytest.raises(TemplateError, match="took more than"):
        render(source)
    assert time.monotonic() - started < 5


def test_a_template_that_folds_constants_at_compile_time_is_bounded_too():
    with pytest.raises(TemplateError):
        ChatTemplate("{{ 'a' | replace('', 'b' * 2) | indent(100000000000) }}", bos="", eos="").render(
            MESSAGES, thinking=False, limit_chars=100
        )


def test_a_prompt_beyond_the_limit_is_refused():
    assert len(render("{{ 'x' * 100 }}", limit_chars=100)) == 100
    with pytest.raises(TemplateError, match="exceeds 99"):
        render("{{ 'x' * 100 }}", limit_chars=99)


def test_the_largest_prompt_that_the_configuration_allows_fits_the_memory():
    large = (Message(role="user", content="é😀" * (1 << 20)),)
    assert len(render(CHATML, large, limit_chars=1 << 24)) > 2 << 20


def test_the_limits_leave_no_trace():
    def state():
        armed = signal.getitimer(signal.ITIMER_REAL)[0] > 0  # by whoever bounds this test
        return signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS), armed

    before = state()
    render(CHATML)
    with pytest.raises(TemplateError):
        render("{{ 'x'.replace('', 'y' * 1000000) * 4000 }}")
    assert state() == before


def spin_and_swallow() -> None:
    while True:
        with contextlib.suppress(Exception):
            time.monotonic()


class Deaf:
    """Still busy in its finalizer, where nothing can be raised, when the first alarm strikes."""

    def __del__(self):
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            pass


def make_and_drop() -> None:
    Deaf()
    spin_and_swallow()


def test_the_alarm_is_no_exception_that_the_work_could_swallow():
    with pytest.raises(OutOfTime), confined(seconds=0.05, extra_bytes=1 << 28):
        spin_and_swallow()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_a_finalizer_swallows_comes_again():
    with pytest.raises(OutOfTime), confined(seconds=0.05, extra_bytes=1 << 28):
        make_and_drop()


def test_outside_the_main_thread_nothing_is_touched():
    limits = []

    def work() -> None:
        with confined(seconds=0.05, extra_bytes=1):
            limits.append(resource.getrlimit(resource.RLIMIT_AS))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert limits == [resource.getrlimit(resource.RLIMIT_AS)]
