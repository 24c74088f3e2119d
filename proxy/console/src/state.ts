// What the page knows: polled numbers, the stream of decisions, the filter and the decision that is explained.

import { computed, effect, signal } from "@preact/signals";
import { type Decision, type Explained, type Overview, ask, refusal } from "./api";
import { type Filter, parse, query } from "./filter";

/** Between two looks at the numbers, in milliseconds. */
const LOOK = 2_000;
/** Between two attempts at a stream that was refused, in milliseconds. */
const RETRY = 5_000;
/** Most decisions held. */
const HELD = 200;

export const overview = signal<Overview | null>(null);
/** When the last answer came, and when it is now; in milliseconds. */
export const answered = signal(0);
export const now = signal(Date.now());
export const filter = signal<Filter>(parse(location.search));
/** The policy whose steps are shown; those of all where it is empty. */
export const policy = signal(new URLSearchParams(location.search).get("policy") ?? "");
export const decisions = signal<Decision[]>([]);
/** Newest first, those that came while the list was held. */
const waiting = signal<Decision[]>([]);
export const waits = computed(() => waiting.value.length);
export const held = signal(false);
export const dropped = signal(0);
/** Some of them were dropped before the filter saw them. */
export const droppedAtMost = signal(false);
export const trouble = signal("");
export const asked = signal(new URLSearchParams(location.search).get("explain") ?? "");
export const explained = signal<Explained | null>(null);
export const unexplained = signal("");
/** Said to screen readers. */
export const said = signal("");

/** True where the numbers are too old to be believed. */
export const stale = computed(() => answered.value > 0 && now.value - answered.value > 4 * LOOK);

/** Changes the filter, here and in the address. */
export function narrow(change: Filter): void {
  if (change.route) policy.value = "";
  filter.value = parse(query({ ...filter.value, ...change }));
  remember(false);
}

/** Shows the steps of a policy, in place of those of a route. */
export function choose(name: string): void {
  policy.value = name;
  if (name !== "" && filter.value.route !== undefined) narrow({ route: "" });
  else remember(false);
}

export function clear(): void {
  filter.value = {};
  remember(false);
}

/** Explains a decision, and has the address say so. */
export function explain(id: string): void {
  asked.value = id;
  remember(true);
}

function remember(step: boolean): void {
  const address = new URLSearchParams(query(filter.value));
  if (policy.value) address.set("policy", policy.value);
  if (asked.value) address.set("explain", asked.value);
  const text = address.size > 0 ? `?${address}` : location.pathname;
  if (step) history.pushState(null, "", text);
  else history.replaceState(null, "", text);
}

async function look(): Promise<void> {
  if (!document.hidden) {
    try {
      const before = overview.value;
      const next = await ask<Overview>("../api/overview");
      overview.value = next;
      answered.value = Date.now();
      if (before && before.state !== next.state) said.value = `The gateway is ${next.state}.`;
      if (next.config.failure && before?.config.failure?.at !== next.config.failure.at)
        said.value = "The last configuration was refused.";
    } catch {
      // What is shown tells how old it is.
    }
  }
  now.value = Date.now();
  setTimeout(() => void look(), LOOK);
}

/** Shows what waited. */
export function release(): void {
  held.value = false;
  decisions.value = waiting.value.concat(decisions.value).slice(0, HELD);
  waiting.value = [];
}

function unknown(list: Decision[]): Decision[] {
  const known = new Set([...decisions.value, ...waiting.value].map((it) => it["foregate.decision"]));
  return list.filter((it) => !known.has(it["foregate.decision"]));
}

/** Those that have just come, newest first. */
function take(fresh: Decision[]): void {
  const list = held.value ? waiting : decisions;
  list.value = unknown(fresh).concat(list.value).slice(0, HELD);
}

/** Those that came before the stream was there. */
function fill(recent: Decision[]): void {
  const all = decisions.value.concat(unknown(recent));
  decisions.value = all.sort((a, b) => (a.timestamp < b.timestamp ? 1 : -1)).slice(0, HELD);
}

/** Follows the decisions that pass the filter; gives back how to stop. */
function follow(words: string): () => void {
  let stopped = false;
  let source: EventSource | undefined;
  let pause = 0;
  let arrived: Decision[] = [];
  let frame = 0;
  const show = (): void => {
    frame = 0;
    take(arrived.splice(0).reverse());
  };
  const path = words ? `../decisions/stream?${words}` : "../decisions/stream";
  const open = (): void => {
    source = new EventSource(path);
    source.addEventListener("open", () => {
      trouble.value = "";
      const recent = words ? `../decisions?limit=100&${words}` : "../decisions?limit=100";
      ask<Decision[]>(recent).then(
        (list) => { if (!stopped) fill(list); },
        () => undefined,
      );
    });
    source.addEventListener("decision", (event) => {
      arrived.push(JSON.parse((event as MessageEvent<string>).data) as Decision);
      // A burst is shown once, and no more of it is kept than is shown.
      if (arrived.length > HELD) arrived = arrived.slice(-HELD);
      frame ||= requestAnimationFrame(show);
    });
    for (const name of ["dropped", "dropped-at-most"]) {
      source.addEventListener(name, (event) => {
        dropped.value += Number((event as MessageEvent<string>).data);
        if (name === "dropped-at-most") droppedAtMost.value = true;
      });
    }
    source.addEventListener("error", () => {
      if (source?.readyState !== EventSource.CLOSED) {
        trouble.value = "The stream broke off; it is asked for again.";
        return;
      }
      void refusal(path).then((why) => {
        if (stopped) return;
        trouble.value = why ?? "The stream broke off; it is asked for again.";
        pause = setTimeout(open, RETRY);
      });
    });
  };
  open();
  return () => {
    stopped = true;
    source?.close();
    clearTimeout(pause);
    cancelAnimationFrame(frame);
  };
}

/** Begins to look and to listen. */
export function start(): void {
  void look();
  setInterval(() => (now.value = Date.now()), 1_000);
  const words = computed(() => query(filter.value));
  effect(() => {
    const stop = follow(words.value);
    decisions.value = [];
    waiting.value = [];
    held.value = false;
    dropped.value = 0;
    droppedAtMost.value = false;
    trouble.value = "";
    return stop;
  });
  effect(() => {
    const id = asked.value;
    explained.value = null;
    unexplained.value = "";
    if (!id) return;
    ask<Explained>(`../decisions/${encodeURIComponent(id)}`).then(
      (told) => {
        if (asked.peek() !== id) return;
        explained.value = told;
        said.value = `Decision ${id} is explained.`;
      },
      (error: unknown) => {
        if (asked.peek() === id) unexplained.value = error instanceof Error ? error.message : String(error);
      },
    );
  });
  addEventListener("popstate", () => {
    filter.value = parse(location.search);
    policy.value = new URLSearchParams(location.search).get("policy") ?? "";
    asked.value = new URLSearchParams(location.search).get("explain") ?? "";
  });
}
