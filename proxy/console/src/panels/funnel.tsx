// How many requests reach each of the thirteen steps, and who refuses there.

import { type Refusals, STEPS } from "../api";
import { count, route as named } from "../format";
import { flags, holds } from "../filter";
import { filter, narrow, overview } from "../state";
import { Panel, asking } from "../panel";

interface Row {
  step: string;
  reached: number;
  refused: number;
  /** Rules, or reasons where no rule has a name; those that refused most first. */
  who: string[];
}

function whoRefused(refusals: Refusals[]): string[] {
  const counts = new Map<string, number>();
  for (const { rule, reason, count } of refusals) {
    const who = rule || reason;
    counts.set(who, (counts.get(who) ?? 0) + count);
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([who]) => who);
}

/** Each step with the requests that come to it. Whatever is refused is answered and recorded, too. */
function rows(requests: number, refusedIn: (step: string) => number, refusals: Refusals[]): Row[] {
  const refused = STEPS.map(refusedIn);
  // Connections that are passed on unread are refused, and are no requests.
  const all = Math.max(requests, refused.reduce((sum, count) => sum + count, 0));
  let left = all;
  return STEPS.map((step, at) => {
    const reached = step === "respond" || step === "record" ? all : left;
    left -= refused[at] ?? 0;
    return { step, reached, refused: refused[at] ?? 0, who: whoRefused(refusals.filter((it) => it.step === step)) };
  });
}

export function Funnel() {
  const seen = overview.value;
  const chosen = filter.value.route;
  const mine = (seen?.routes ?? []).filter((it) => holds(chosen, it.name));
  const refusals = (seen?.refusals ?? []).filter((it) => holds(chosen, it.route));
  const requests = chosen === undefined ? (seen?.total.requests ?? 0) : mine.reduce((sum, it) => sum + it.requests, 0);
  const refusedIn = (step: string): number => mine.reduce((sum, it) => sum + (it.refused_in[step] ?? 0), 0);
  const table = rows(requests, refusedIn, refusals);
  const first = table[0]?.reached || 1;
  const step = filter.value.step;
  return (
    <Panel
      id="funnel" title="Steps" note={chosen === undefined ? "all routes, since the start" : `${chosen === "-" ? named("") : chosen}, since the start`}
      command={asking(`tap${flags({ ...filter.value, refused: true })}`)}
    >
      <div class="scroll" tabIndex={0} role="region" aria-label="Steps">
        <table class="funnel">
          <thead>
            <tr><th scope="col">Step</th><th scope="col" class="number">Reached</th><th scope="col" class="number">Refused</th><th scope="col">Mostly by</th></tr>
          </thead>
          <tbody>
            {table.map((row) => (
              <tr key={row.step} class={step === row.step ? "chosen" : undefined}>
                <th scope="row">
                  <button type="button" aria-pressed={step === row.step} onClick={() => narrow({ step: step === row.step ? "" : row.step })}>{row.step}</button>
                </th>
                <td class="number share">
                  <i aria-hidden="true" style={{ width: `${(100 * row.reached) / first}%` }} />
                  {count(row.reached)}
                </td>
                <td class={`number${row.refused > 0 ? " some" : ""}`}>{row.refused > 0 ? count(row.refused) : "\u00b7"}</td>
                <td class="who" title={row.who.join(", ")}>{row.who[0]}{row.who.length > 1 && <span class="note"> and {row.who.length - 1} more</span>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
