// How many requests reach each of the thirteen steps, and who refuses there.

import { type Overview, type Refusals, STEPS } from "../api";
import { count, route as named } from "../format";
import { holds } from "../filter";
import { choose, filter, narrow, overview, policy } from "../state";
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

/** What is shown: of all routes, of one, or of those of a policy. */
interface Choice {
  note: string;
  table: Row[];
  /** The filters that the policy brings to a step. */
  brings: (step: string) => string[];
}

function ofPolicy(seen: Overview, name: string): Choice {
  const it = seen.policies.find((one) => one.name === name);
  const mine = new Set(seen.routes.filter((route) => route.policies.includes(name)).map((route) => route.name));
  const refusals = seen.refusals.filter(({ route }) => mine.has(route));
  const routes = it?.routes === 1 ? "the route" : `the ${count(it?.routes ?? 0)} routes`;
  return {
    note: it ? `${routes} of ${name}, since the start` : `${name} is not in force, or has no filter`,
    table: rows(it?.requests ?? 0, (step) => it?.refused_in[step] ?? 0, refusals),
    brings: (step) => it?.brings.find((one) => one.step === step)?.filters ?? [],
  };
}

function ofRoute(seen: Overview | null, chosen: string | undefined): Choice {
  const brings = (): string[] => [];
  if (chosen === undefined) {
    const refused = seen?.refused_in ?? {};
    const table = rows(seen?.total.requests ?? 0, (step) => refused[step] ?? 0, seen?.refusals ?? []);
    return { note: "all routes, since the start", table, brings };
  }
  const mine = (seen?.routes ?? []).filter((it) => holds(chosen, it.name));
  const refusals = (seen?.refusals ?? []).filter((it) => holds(chosen, it.route));
  const requests = mine.reduce((sum, it) => sum + it.requests, 0);
  const refusedIn = (step: string): number => mine.reduce((sum, it) => sum + (it.refused_in[step] ?? 0), 0);
  return { note: `${chosen === "-" ? named("") : chosen}, since the start`, table: rows(requests, refusedIn, refusals), brings };
}

function Policies({ seen }: { seen: Overview | null }) {
  const names = (seen?.policies ?? []).map((it) => it.name).sort();
  const chosen = policy.value;
  const omitted = seen?.policies_omitted ?? 0;
  return (
    <form class="filters" aria-label="Choose a policy" onSubmit={(event) => event.preventDefault()}>
      <label class="line">
        Policy
        <select name="policy" value={chosen} onChange={(event) => choose(event.currentTarget.value)}>
          <option value="">any</option>
          {names.includes(chosen) || chosen === "" ? null : <option value={chosen}>{chosen}</option>}
          {names.map((name) => <option key={name} value={name}>{name}</option>)}
          {omitted > 0 && <option disabled>{`${count(omitted)} with fewer requests`}</option>}
        </select>
      </label>
    </form>
  );
}

export function Funnel() {
  const seen = overview.value;
  const { note, table, brings } = seen && policy.value !== "" ? ofPolicy(seen, policy.value) : ofRoute(seen, filter.value.route);
  const first = table[0]?.reached || 1;
  const step = filter.value.step;
  return (
    <Panel id="funnel" title="Steps" note={note} command={asking("top --once --format json")}>
      <Policies seen={seen} />
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
                  {brings(row.step).length > 0 && <span class="note"> {brings(row.step).join(", ")}</span>}
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
