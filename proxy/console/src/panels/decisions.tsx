// Decisions as they are made, and the filter that chooses among them.

import type { Decision } from "../api";
import { STEPS } from "../api";
import { type Word, flags } from "../filter";
import { clock, count, micros, route as named } from "../format";
import { asked, clear, decisions, dropped, droppedAtMost, explain, filter, held, narrow, overview, release, trouble, waits } from "../state";
import { Panel, asking } from "../panel";

const CLASSES = ["2xx", "3xx", "4xx", "5xx"];

function Text({ word, name, known }: { word: Word; name: string; known: string[] }) {
  return (
    <label>
      {name}
      <input
        type="text" name={word} value={filter.value[word] ?? ""} list={`known-${word}`} autocomplete="off" spellcheck={false}
        onChange={(event) => narrow({ [word]: event.currentTarget.value.trim() })}
      />
      <datalist id={`known-${word}`}>{known.map((value) => <option key={value} value={value} />)}</datalist>
    </label>
  );
}

function Choice({ word, name, values }: { word: Word; name: string; values: readonly string[] }) {
  const chosen = filter.value[word] ?? "";
  return (
    <label>
      {name}
      <select name={word} value={chosen} onChange={(event) => narrow({ [word]: event.currentTarget.value })}>
        <option value="">any</option>
        {values.includes(chosen) || chosen === "" ? null : <option value={chosen}>{chosen}</option>}
        {values.map((value) => <option key={value} value={value}>{value}</option>)}
      </select>
    </label>
  );
}

function distinct(values: string[]): string[] {
  return [...new Set(values.filter((value) => value !== ""))].sort();
}

function Filters() {
  const seen = overview.value;
  const refusals = seen?.refusals ?? [];
  const consumers = decisions.value.flatMap((it) => it["foregate.consumer"] ?? []);
  return (
    <form class="filters" role="search" aria-label="Filter decisions" onSubmit={(event) => event.preventDefault()}>
      <Text word="route" name="Route" known={distinct((seen?.routes ?? []).map((it) => it.name))} />
      <Choice word="status" name="Status" values={CLASSES} />
      <Choice word="step" name="Step" values={STEPS} />
      <Text word="reason" name="Reason" known={distinct(refusals.map((it) => it.reason))} />
      <Text word="rule" name="Rule" known={distinct(refusals.map((it) => it.rule))} />
      <Text word="consumer" name="Consumer" known={distinct(consumers)} />
      <label class="check">
        <input type="checkbox" name="refused" checked={filter.value.refused === true} onChange={(event) => narrow({ refused: event.currentTarget.checked })} />
        Refusals only
      </label>
      <button type="button" onClick={clear} disabled={Object.keys(filter.value).length === 0}>Clear</button>
    </form>
  );
}

/** Codes of gRPC with which a service has failed: the HTTP status of such a call is 200. */
const FAILED = new Set(["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "other"]);

function tone(status: number | undefined, code: string | undefined): string {
  if (status === undefined) {
    return "";
  }
  return status >= 500 || FAILED.has(code ?? "") ? "bad" : status >= 400 || code !== undefined ? "warn" : "";
}

function Line({ decision }: { decision: Decision }) {
  const id = decision["foregate.decision"];
  const status = decision["http.response.status_code"];
  const reason = decision["foregate.reason"];
  // What ended well needs no words.
  const code = decision["rpc.response.status_code"] === "OK" ? undefined : decision["rpc.response.status_code"];
  return (
    <tr class={asked.value === id ? "chosen" : undefined}>
      <th scope="row">
        <button type="button" class="time" onClick={() => open(id)} aria-label={`Explain the decision of ${clock(decision.timestamp)}`}>{clock(decision.timestamp)}</button>
      </th>
      <td class={`number ${tone(status, code)}`}>{status ?? decision["foregate.end"]}{code ? ` ${code}` : null}</td>
      <td class="request" title={decision["url.path"]}>{decision["http.request.method"]} {decision["url.path"]}</td>
      <td>{named(decision["http.route"] ?? decision["foregate.route"])}</td>
      <td>{decision["foregate.step"]}</td>
      <td>{reason}{decision["foregate.rule"] ? <span class="note"> {decision["foregate.rule"]}</span> : null}</td>
      <td>{decision["foregate.consumer"]}</td>
      <td class="number">{micros(decision["foregate.duration_us"])}</td>
    </tr>
  );
}

/** Explains a decision, and goes there. */
function open(id: string): void {
  explain(id);
  document.getElementById("explain-title")?.focus();
}

export function Decisions() {
  const one = overview.value?.sampled_one_in ?? 16;
  const note = one > 1 ? `refusals, audits, failures and one in ${one} of the rest; times in UTC` : "all; times in UTC";
  return (
    <Panel id="decisions" title="Decisions" note={note} command={asking(`tap${flags(filter.value)}`)}>
      <Filters />
      <div class="stream">
        <div class="bar">
          <button type="button" aria-pressed={held.value} onClick={() => (held.value ? release() : (held.value = true))}>
            {held.value ? "Go on" : "Hold"}
          </button>
          <span>{held.value ? `${count(waits.value)} new` : "live"}</span>
          {dropped.value > 0 && <span class="warn">{droppedAtMost.value ? "up to " : ""}{count(dropped.value)} dropped: more came than is sent to one page</span>}
          {trouble.value !== "" && <span class="bad" role="alert">{trouble.value}</span>}
        </div>
        <div class="scroll" tabIndex={0} role="region" aria-label="Decisions">
          <table>
            <thead>
              <tr>
                <th scope="col">Time</th><th scope="col" class="number">Status</th><th scope="col">Request</th><th scope="col">Route</th>
                <th scope="col">Refused in</th><th scope="col">Reason and rule</th><th scope="col">Consumer</th><th scope="col" class="number">Took</th>
              </tr>
            </thead>
            <tbody>
              {decisions.value.map((it) => <Line key={it["foregate.decision"]} decision={it} />)}
              {decisions.value.length === 0 && <tr><td colSpan={8} class="empty">Nothing has come that passes the filter.</td></tr>}
            </tbody>
          </table>
        </div>
      </div>
    </Panel>
  );
}
