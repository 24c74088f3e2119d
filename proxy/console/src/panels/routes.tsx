// Every route with its numbers; choosing one narrows funnel and decisions to it.

import { signal } from "@preact/signals";
import type { Route } from "../api";
import { count, micros, rate, route as named, share } from "../format";
import { holds } from "../filter";
import { filter, narrow, overview } from "../state";
import { Panel, asking } from "../panel";

interface Column {
  key: Exclude<keyof Route, "refused_in" | "policies">;
  name: string;
  tell: (route: Route) => string;
  bad?: (route: Route) => boolean;
}

const COLUMNS: Column[] = [
  { key: "name", name: "Route", tell: (it) => named(it.name) },
  { key: "requests_per_second", name: "Requests/s", tell: (it) => rate(it.requests_per_second) },
  { key: "success", name: "Success", tell: (it) => share(it.success), bad: (it) => it.success !== null && it.success < 0.99 },
  { key: "refusals_per_second", name: "Refusals/s", tell: (it) => rate(it.refusals_per_second) },
  { key: "added_p50_us", name: "Added p50", tell: (it) => micros(it.added_p50_us) },
  { key: "added_p99_us", name: "Added p99", tell: (it) => micros(it.added_p99_us) },
  { key: "p99_us", name: "Total p99", tell: (it) => micros(it.p99_us) },
  { key: "requests", name: "Requests", tell: (it) => count(it.requests) },
  { key: "refused", name: "Refused", tell: (it) => count(it.refused) },
  { key: "failed", name: "Failed", tell: (it) => count(it.failed) },
];

const sort = signal<{ key: Column["key"]; down: boolean }>({ key: "requests", down: true });

function compare(a: Route, b: Route): number {
  const { key, down } = sort.value;
  const [left, right] = [a[key], b[key]];
  const order = typeof left === "string" || typeof right === "string"
    ? String(left).localeCompare(String(right))
    : (left ?? -1) - (right ?? -1);
  return (down ? -order : order) || a.name.localeCompare(b.name);
}

function sortBy(key: Column["key"]): void {
  sort.value = sort.value.key === key ? { key, down: !sort.value.down } : { key, down: key !== "name" };
}

function Heading({ column: { key, name } }: { column: Column }) {
  const sorted = sort.value.key === key ? (sort.value.down ? "descending" : "ascending") : undefined;
  return (
    <th scope="col" class={key === "name" ? undefined : "number"} aria-sort={sorted}>
      <button type="button" onClick={() => sortBy(key)}>
        {name}<span aria-hidden="true">{sorted === undefined ? "" : sorted === "descending" ? " \u2193" : " \u2191"}</span>
      </button>
    </th>
  );
}

export function Routes() {
  const seen = overview.value;
  const rows = [...(seen?.routes ?? [])].sort(compare);
  const chosen = filter.value.route;
  const omitted = seen?.routes_omitted ?? 0;
  return (
    <Panel
      id="routes" title="Routes" command={asking("top")}
      note={omitted > 0 ? `the ${rows.length} with most requests; ${count(omitted)} more are in /metrics` : "choose one to narrow the page to it"}
    >
      <div class="scroll" tabIndex={0} role="region" aria-label="Routes">
        <table>
          <thead><tr>{COLUMNS.map((column) => <Heading key={column.key} column={column} />)}</tr></thead>
          <tbody>
            {rows.map((row) => {
              const word = row.name || "-";
              return (
                <tr key={word} class={chosen !== undefined && holds(chosen, row.name) ? "chosen" : undefined}>
                  {COLUMNS.map(({ key, tell, bad }) =>
                    key === "name" ? (
                      <th scope="row" key={key}>
                        <button type="button" aria-pressed={chosen === word} onClick={() => narrow({ route: chosen === word ? "" : word })}>
                          {tell(row)}
                        </button>
                      </th>
                    ) : (
                      <td key={key} class={`number${bad?.(row) ? " bad" : ""}`}>{tell(row)}</td>
                    ),
                  )}
                </tr>
              );
            })}
            {seen && rows.length === 0 && <tr><td colSpan={COLUMNS.length} class="empty">No request has come yet.</td></tr>}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
