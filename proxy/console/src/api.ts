// What the admin endpoint answers, and how it is asked.

/** Counts since the start, as `/metrics` has them, and what the last window gave. */
export interface Traffic {
  requests: number;
  refused: number;
  failed: number;
  requests_per_second: number;
  refusals_per_second: number;
  /** Share of answers below 500; absent without requests. */
  success: number | null;
  added_p50_us: number | null;
  added_p99_us: number | null;
  p99_us: number | null;
}

export interface Route extends Traffic {
  name: string;
  /** Refusals by step. */
  refused_in: Record<string, number>;
  /** Those in force that have a filter on it. */
  policies: string[];
}

/** A policy in force with the numbers of its routes, whoever refused on them. */
export interface Policy {
  name: string;
  routes: number;
  requests: number;
  refused_in: Record<string, number>;
  /** Its filters by step, such as `rateLimit`. */
  brings: { step: string; filters: string[] }[];
}

export interface Refusals {
  route: string;
  step: string;
  reason: string;
  rule: string;
  count: number;
}

/** The scores of sampled decisions beside those of the training records, by the bins of the bundle. */
export interface Scores {
  edges: number[];
  training: number[];
  now: number[];
}

export interface Model {
  name: string;
  version: string;
  role: string;
  runs: string;
  p99_us: number;
  drift?: { feature: string; index: number };
  scores?: Scores;
}

export interface History {
  at: number[];
  requests_per_second: number[];
  refusals_per_second: number[];
  failures_per_second: number[];
  added_p50_us: (number | null)[];
  added_p99_us: (number | null)[];
}

export interface Overview {
  at: string;
  version: string;
  state: "ready" | "draining" | "withheld" | "waiting" | "starting";
  config: {
    revision: string;
    loaded_at: string;
    routes: number;
    listeners: number;
    warnings: string[];
    failure?: { at: string; diagnostics: string[] };
  };
  window_seconds: number;
  in_flight: number;
  sampled_one_in: number;
  total: Traffic;
  /** Refusals by step, on all routes. */
  refused_in: Record<string, number>;
  routes: Route[];
  routes_omitted: number;
  policies: Policy[];
  policies_omitted: number;
  refusals: Refusals[];
  models: Model[];
  endpoints: { all: number; fit: number };
  history: History;
}

/** One decision, in the names of the access log. */
export interface Decision {
  timestamp: string;
  "foregate.decision": string;
  "http.request.method"?: string;
  "url.path"?: string;
  "url.scheme"?: string;
  "server.address"?: string;
  "client.address": string;
  "http.response.status_code"?: number;
  "rpc.response.status_code"?: string;
  "http.route"?: string;
  "foregate.route"?: string;
  "foregate.listener": string;
  "foregate.step"?: string;
  "foregate.reason"?: string;
  "foregate.rule"?: string;
  "foregate.detail"?: string;
  "foregate.consumer"?: string;
  "foregate.duration_us": number;
  "foregate.end": string;
}

export interface Step {
  step: string;
  verdict: string;
  filter?: string;
  policy?: string;
  rule?: string;
  kind?: string;
  file?: string;
  line?: number;
  expression?: string;
  inputs?: Record<string, unknown>;
  audits?: { rule: string; detail: string; file: string; line: number }[];
  limits?: { rule: string; admitted: boolean; remaining: number; key: string }[];
  reason?: string;
  detail?: string;
  duration_us?: number;
}

export interface Explained extends Decision {
  "foregate.revision"?: string;
  "foregate.steps"?: Step[];
  "foregate.advice"?: string;
}

export const STEPS = [
  "accept", "handshake", "pin", "route", "guard", "identify", "admit",
  "enrich", "decide", "shape", "dispatch", "respond", "record",
] as const;

/** Longest wait for an answer. */
const PATIENCE = 8_000;

/** The answer as JSON; throws what the endpoint says where it says no. */
export async function ask<T>(path: string): Promise<T> {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (answer.ok) return (await answer.json()) as T;
  throw new Error(await complaint(answer));
}

async function complaint(answer: Response): Promise<string> {
  const problem = (await answer.json().catch(() => ({}))) as { detail?: string };
  return problem.detail ?? `The admin endpoint answered with status ${answer.status}.`;
}

/** Why a stream was not opened; asked where the browser does not tell. */
export async function refusal(path: string): Promise<string | null> {
  const ended = new AbortController();
  try {
    const answer = await fetch(path, { signal: ended.signal, cache: "no-store" });
    return answer.ok ? null : await complaint(answer);
  } catch {
    return null;
  } finally {
    ended.abort();
  }
}
