"""The book: it is built, its links lead somewhere, and it needs nothing from elsewhere."""

import html.parser
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

from support import ROOT, binary, program

sys.path.insert(0, str(ROOT / "docs"))
import tree  # noqa: E402

class Anchors(html.parser.HTMLParser):
    """What a page can be entered by, what it leads to, and what it is made of."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links, self.parts = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.names.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("link", "script", "img", "iframe") and (found.get("href") or found.get("src")):
            self.parts.append(found.get("href") or found.get("src"))


class Book(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        environment = {**os.environ, "FOREGATE_BINARIES": str(pathlib.Path(binary("foregate")).parent)}
        build = [program("mdbook"), "build", ROOT / "docs", "--dest-dir", cls.folder]
        done = subprocess.run(build, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        cls.said = done.stdout + done.stderr
        cls.pages = {
            file.relative_to(cls.folder).as_posix(): Anchors(file.read_text())
            for file in sorted(cls.folder.rglob("*.html"))
            if file.name not in ("print.html", "toc.html", "404.html")
        }

    def test_it_is_built_without_a_warning(self):
        self.assertNotRegex(self.said, r"(?i)warn|error")
        self.assertGreater(len(self.pages), 35)

    def test_every_link_within_it_leads_to_something(self):
        count = 0
        for page, anchors in self.pages.items():
            for link in anchors.links:
                where = urllib.parse.urlsplit(link)
                if where.scheme:
                    self.assertIn(where.scheme, ("http", "https"), f"{page}: {link}")
                    continue
                folder = pathlib.PurePosixPath(page).parent
                target = os.path.normpath(folder / where.path) if where.path else page
                self.assertTrue((self.folder / target).is_file(), f"{page}: {link} leads nowhere")
                if where.fragment and target in self.pages:
                    self.assertIn(where.fragment, self.pages[target].names, f"{page}: {link} has no such heading")
                    count += 1
        self.assertGreater(count, 20)

    def test_nothing_comes_from_elsewhere_and_search_is_within(self):
        for page, anchors in self.pages.items():
            for part in anchors.parts:
                self.assertFalse(re.match(r"[a-z]+:|//", part) and not part.startswith("data:"), f"{page}: {part}")
                folder = pathlib.PurePosixPath(page).parent
                self.assertTrue((self.folder / os.path.normpath(folder / part)).is_file(), f"{page}: {part}")
        for style in self.folder.rglob("*.css"):
            self.assertNotRegex(style.read_text(), r"url\(\s*[\"']?(https?:)?//", style.name)
        (index,) = self.folder.glob("searchindex*.js")
        for word in ("idempot", "guardrail", "fg0102"):
            self.assertTrue(word in index.read_text().lower(), word)

    def test_what_is_taken_over_and_generated_is_there(self):
        for page in self.pages:
            text = (self.folder / page).read_text()
            self.assertFalse("{{#" in text, page)
        commands = (self.folder / "reference/commands.html").read_text()
        for heading in ("foregate-run", "foregate-model-promote", "foregate-control-token-create"):
            self.assertTrue(f'id="{heading}"' in commands, heading)
        for page, word in (
            ("commands", "--drain-timeout"),
            ("documents", "rules[].matches[].path.type"),
            ("codes", "FG0304"),
        ):
            self.assertTrue(word in (self.folder / f"reference/{page}.html").read_text(), word)

    def test_links_of_what_is_taken_over_follow_it(self):
        book = tree.Book(
            [
                {"path": "a.md", "content": "{{#section ../../policies/README.md#limits}}"},
                {"path": "deep/b.md", "content": "{{#section ../../../policies/README.md#counting-together}}"},
            ]
        )
        text = "[one](#counting-together) [two](mesh) [three](https://example.org/) [four](#nothing)"
        said = book.linked(text, "policies/README.md", "a.md")
        self.assertEqual(
            said,
            "[one](deep/b.md) two (`policies/mesh`) [three](https://example.org/) four (`policies/README.md`)",
        )
        with self.assertRaises(SystemExit):
            tree.section("policies/README.md", "no-such-section")


if __name__ == "__main__":
    unittest.main()
