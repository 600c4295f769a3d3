"""Pictures of the chat page, the terminal chat and Flower, each with real answers of the default model."""

import io
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from benchmarks.village import Village
from dure.settings import Settings

FOLDER = Path("scripts/results/screenshots")
QUESTIONS = ("안녕하세요! 오늘 날씨가 어때요?", "파이썬에서 리스트를 거꾸로 뒤집는 방법을 알려 주세요.")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# In this font a Hangul letter is exactly two columns wide, as in a terminal.
_HTML = """<pre style="margin:0;padding:16px;background:{background};color:{foreground};
font:15px/1.5 'Noto Sans Mono CJK KR',monospace;white-space:pre-wrap">{code}</pre>"""
_ANSWER_MS = 180_000
_COLUMNS, _ROWS = 92, 30


def chat_page(browser: Browser, village: Village, scheme: str) -> None:
    page = browser.new_page(locale="ko-KR", color_scheme=scheme, viewport={"width": 860, "height": 760})  # type: ignore[arg-type]
    page.goto(f"http://127.0.0.1:{village.web_port}/")
    page.select_option("#style", "casual")
    for number, question in enumerate(QUESTIONS):
        page.fill("#message", question)
        page.click("#send")
        answer = page.locator('[data-role="assistant"]').nth(number)
        expect(answer).to_have_attribute("data-status", "done", timeout=_ANSWER_MS)
    page.screenshot(path=FOLDER / f"chat-page-{scheme}.png")
    page.close()


def flower(browser: Browser, village: Village) -> None:
    credentials = {"username": "dure", "password": village.flower_password()}
    page = browser.new_page(http_credentials=credentials, viewport={"width": 1200, "height": 420})
    page.goto(f"http://127.0.0.1:{village.flower_port}/tasks")
    page.wait_for_selector("text=dure.chat")
    page.screenshot(path=FOLDER / "flower.png")
    page.close()


def terminal(browser: Browser, village: Village) -> None:
    """tmux draws the terminal; its screen, colours included, becomes a picture."""
    dure = Path(sys.executable).with_name("dure")
    _tmux("new-session", "-d", "-x", str(_COLUMNS), "-y", str(_ROWS), f"{dure} chat --url {village.url}")
    try:
        _wait_for("두레입니다")
        for number, question in enumerate(QUESTIONS, 1):
            _tmux("send-keys", "-l", question)
            _tmux("send-keys", "Enter")
            _wait_for("tokens/s", number)
        screen = _tmux("capture-pane", "-e", "-p")
    finally:
        _tmux("kill-session")
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen.rstrip()))
    page = browser.new_page(viewport={"width": 860, "height": 400})
    page.set_content(console.export_html(inline_styles=True, theme=MONOKAI, code_format=_HTML))
    page.locator("pre").screenshot(path=FOLDER / "terminal-chat.png")
    page.close()


def _tmux(*arguments: str) -> str:
    return subprocess.run(
        ["tmux", "-L", "dure-screenshots", *arguments], check=True, capture_output=True, text=True
    ).stdout


def _wait_for(text: str, times: int = 1) -> None:
    give_up = time.monotonic() + _ANSWER_MS / 1000
    while _tmux("capture-pane", "-p").count(text) < times:
        if time.monotonic() > give_up:
            raise SystemExit(f"the terminal never showed {text!r}")
        time.sleep(0.2)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or shutil.which("tmux") is None:
        raise SystemExit("chromium and tmux are needed: apt install chromium tmux fonts-noto-cjk")
    settings = Settings.read()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Village(settings.model, settings.models_dir) as village, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for scheme in ("light", "dark"):
            chat_page(browser, village, scheme)
        terminal(browser, village)
        flower(browser, village)
        browser.close()
    print(*sorted(FOLDER.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
