"""A preprocessor of mdBook: takes over what stands elsewhere in the tree, and what the commands say of themselves.

    {{#section FILE}}        a file without its first heading, or one section of it: FILE#NAME
    {{#generated NAME}}      commands, documents or codes, as the built `foregate` tells them

Links of what is taken over lead to where that stands in the book; those to what is not in the book become names of files.
FOREGATE_BINARIES names the folder of the commands; without it the newest build is asked.
"""

import json
import os
import pathlib
import posixpath
import re
import subprocess
import sys

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
COMMANDS = ("foregate", "foregate-control", "foregate-inference")
SECTION = re.compile(r"^\{\{#section ([^#}]+)(?:#([^}]+))?\}\}$", re.M)
GENERATED = re.compile(r"^\{\{#generated (\w+)\}\}$", re.M)
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def slug(heading):
    """What a heading is called in links."""
    return re.sub(r"[^\w -]", "", heading.strip("# ").lower()).replace(" ", "-")


def lines_of(text):
    """Lines, and the level of the heading that each is; 0 for others."""
    fenced = False
    for line in text.splitlines():
        fenced ^= line.lstrip().startswith("```")
        yield line, 0 if fenced else len(line) - len(line.lstrip("#"))


def section(path, name):
    """A file, or a section of it, without its own heading."""
    kept, level = [], None
    for line, heading in lines_of((ROOT / path).read_text()):
        if heading and (level is None or heading <= level):
            level = heading if name is None or slug(line) == name else None
            if level is not None and not kept:
                continue
        if level is not None:
            kept.append(line)
    if not kept:
        sys.exit(f"tree.py: {path} has no section {name}")
    return "\n".join(kept).strip("\n")


class Book:
    """Where in the book each file of the tree, and each section of it, stands."""

    def __init__(self, chapters):
        self.places = {}
        for chapter in chapters:
            page = posixpath.join("docs/src", chapter["path"])
            self.places[page, None] = chapter["path"]
            for path, name in SECTION.findall(chapter["content"]):
                path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
                if name:
                    self.places[path, name] = chapter["path"]
                else:
                    self.places.setdefault((path, None), chapter["path"])
                for line, heading in lines_of(section(path, name or None)):
                    if heading:
                        self.places.setdefault((path, slug(line)), f"{chapter['path']}#{slug(line)}")

    def taken(self, chapter):
        """The text of a chapter, with what it takes over."""
        page = posixpath.join("docs/src", chapter["path"])

        def fill(match):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
            return self.linked(section(path, match[2]), path, chapter["path"])

        return GENERATED.sub(lambda match: generated(match[1]), SECTION.sub(fill, chapter["content"]))

    def linked(self, text, path, page):
        """Text of a file of the tree, with links that hold in a page of the book."""

        def lead(match):
            words, target = match.groups()
            if re.match(r"[a-z]+:", target):
                return match[0]
            file, _, name = target.partition("#")
            file = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
            if file.startswith("docs/src/") and not file.endswith(".md"):
                # A picture, which the book has beside its pages.
                return f"[{words}]({posixpath.relpath(file.removeprefix('docs/src/'), posixpath.dirname(page) or '.')})"
            place = self.places.get((file, name or None)) or self.places.get((file, None))
            if place is None and (file, None) not in self.places:
                index = posixpath.join(file, "README.md")
                place = self.places.get((index, name or None)) or self.places.get((index, None))
            if place:
                return f"[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')})"
            return f"`{file}`" if words.strip("`").split("/")[-1] in file else f"{words} (`{file}`)"

        return "\n".join(
            line if line.startswith(("    ", "```")) else LINK.sub(lead, line) for line in text.splitlines()
        )


def folder():
    """Where the commands are."""
    if os.environ.get("FOREGATE_BINARIES"):
        return pathlib.Path(os.environ["FOREGATE_BINARIES"])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [target / profile for profile in ("dist", "release", "debug") if (target / profile / "foregate").is_file()]
    if not built:
        sys.exit("tree.py: no command is built: `cargo build --workspace`, or name a folder with FOREGATE_BINARIES")
    return max(built, key=lambda one: (one / "foregate").stat().st_mtime)


def say(*words):
    return subprocess.run([folder() / words[0], *words[1:]], check=True, capture_output=True, text=True).stdout


def generated(name):
    return {"commands": commands, "documents": documents, "codes": codes}[name]()


def commands():
    """Every command with its help."""
    parts = []

    def tell(words, level):
        said = say(*words, "--help")
        parts.append(f"{'#' * level} {' '.join(words)}\n\n```text\n{said.strip()}\n```\n")
        listed = said.split("\nCommands:\n")[1].split("\n\n")[0] if "\nCommands:\n" in said else ""
        for below in re.findall(r"^  ([a-z]+)(?:  |$)", listed, re.M):
            if below != "help":
                tell([*words, below], level + 1)

    for command in COMMANDS:
        tell([command], 2)
    return "\n".join(parts)


def codes():
    """Every code with its page."""
    listed = [line.split("  ", 1) for line in say("foregate", "explain").splitlines()]
    pages = [f"## {code} {title}\n\n```text\n{say('foregate', 'explain', code).strip()}\n```\n" for code, title in listed]
    return "\n".join(pages)


def documents():
    """Every kind of document with all its fields, from the JSON Schema."""
    parts = []
    for kind in json.loads(say("foregate", "schema"))["oneOf"]:
        name, version = (kind["properties"][field]["const"] for field in ("kind", "apiVersion"))
        rows = {}
        flatten(kind["properties"]["spec"], "", rows)
        parts += [f"## {name}", "", f"`apiVersion: {version}`", "", "| field of `spec` | value | is |", "|---|---|---|"]
        parts += [f"| `{path}` | {cell(value)} | {cell(words)} |" for path, (value, words) in rows.items()] + [""]
    return "\n".join(parts)


def flatten(field, path, rows, required=False):
    """Fills in what a field and those below it take, by their path."""
    if path:
        words = [field.get("description", ""), *bounds(field), "required" if required else ""]
        told = " ".join(f"{word[0].upper()}{word[1:].rstrip('.')}." for word in words if word)
        rows.setdefault(path, (shape(field), told))
    for inner in (field, *field.get("oneOf", ()), *field.get("anyOf", ()), *field.get("allOf", ())):
        if inner is not field and "properties" not in inner and "items" not in inner:
            continue
        for name, below in inner.get("properties", {}).items():
            if isinstance(below, dict):
                flatten(below, f"{path}.{name}" if path else name, rows, name in inner.get("required", ()))
        if isinstance(inner.get("items"), dict):
            flatten_items(inner["items"], f"{path}[]", rows)
        if isinstance(inner.get("additionalProperties"), dict) and "properties" in inner["additionalProperties"]:
            flatten_items(inner["additionalProperties"], f"{path}.*", rows)


def flatten_items(items, path, rows):
    """The same for what stands in a list, which has no row of its own."""
    below = {}
    flatten(items, path, below)
    below.pop(path)
    rows.update({path: row for path, row in below.items() if path not in rows})


def shape(field):
    """What a field takes, in a few words."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"] if value is not None)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in field:
            return " or ".join(dict.fromkeys(shape(one) for one in field[word] if one.get("type") != "null"))
    kind = field.get("type", "any")
    kind = [one for one in kind if one != "null"] if isinstance(kind, list) else [kind]
    if kind == ["array"]:
        items = field.get("items", {})
        return "list" if "properties" in items or not items else f"list of {shape(items)}"
    return ", ".join(kind)


def bounds(field):
    """The bounds and the default of a field."""
    words = [f"{word} {field[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in field]
    yield " ".join(words)
    yield from (f"at most {field[key]}" for key in ("maxItems", "maxLength") if key in field)
    if field.get("default") not in (None, [], {}):
        yield f"default `{json.dumps(field['default'])}`"


def cell(text):
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def chapters(items):
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            yield chapter
            yield from chapters(chapter["sub_items"])


def main():
    if sys.argv[1:2] == ["supports"]:
        sys.exit(0)
    _, book = json.load(sys.stdin)
    items = book.get("items", book.get("sections"))
    all_ = [chapter for chapter in chapters(items) if chapter["path"]]
    places = Book(all_)
    for chapter in all_:
        chapter["content"] = places.taken(chapter)
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
