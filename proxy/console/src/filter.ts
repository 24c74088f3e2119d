// Which decisions are shown: the same words in the address, in the stream and on the command line.

export const WORDS = ["route", "status", "step", "reason", "rule", "consumer"] as const;

export type Word = (typeof WORDS)[number];

export type Filter = Partial<Record<Word, string>> & { refused?: boolean };

/** What a query such as `?route=leads&refused=true` asks for; other words are not heeded. */
export function parse(query: string): Filter {
  const asked = new URLSearchParams(query);
  const filter: Filter = {};
  for (const word of WORDS) {
    const value = asked.get(word);
    if (value) filter[word] = value;
  }
  if (asked.get("refused") === "true") filter.refused = true;
  return filter;
}

/** True where a route is the one asked for: that of a document, or of one rule of it. */
export function holds(asked: string | undefined, name: string): boolean {
  if (asked === undefined) return true;
  return asked === "-" ? name === "" : name === asked || name.startsWith(`${asked}/`);
}

/** The filter as a query without question mark; empty where it lets everything pass. */
export function query(filter: Filter): string {
  const asked = new URLSearchParams();
  for (const word of WORDS) {
    const value = filter[word];
    if (value) asked.set(word, value);
  }
  if (filter.refused) asked.set("refused", "true");
  return asked.toString();
}

/** The filter as words of `foregate tap`. */
export function flags(filter: Filter): string {
  const words = WORDS.flatMap((word) => {
    const value = filter[word];
    return value ? [` --${word} ${quoted(value)}`] : [];
  });
  return words.join("") + (filter.refused ? " --refused" : "");
}

/** A word of a shell. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
