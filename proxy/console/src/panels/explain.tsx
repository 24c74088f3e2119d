// One decision step by step: verdict, rule with its place, what was read, the time it took.

import type { Explained, Step } from "../api";
import { quoted } from "../filter";
import { clock, micros, route as named } from "../format";
import { asked, explain, explained, unexplained } from "../state";
import { Panel, asking } from "../panel";

function read(value: unknown): string {
  if (value === null) return "absent";
  if (typeof value === "object" && !Array.isArray(value)) return "not told";
  return JSON.stringify(value);
}

function place(of: { file?: string | undefined; line?: number | undefined }): string {
  return of.file === undefined ? "" : `${of.file}:${of.line ?? 1}`;
}

function Told({ step }: { step: Step }) {
  const name = [step.kind, step.rule].filter(Boolean).join(" ") || step.filter || "";
  const of = step.policy && step.policy !== step.rule ? ` of ${step.policy}` : "";
  const inputs = Object.entries(step.inputs ?? {});
  return (
    <tr class={step.verdict === "refused" ? "refused" : undefined}>
      <th scope="row">{step.step}</th>
      <td class={step.verdict === "refused" ? "bad" : step.verdict === "passed" ? undefined : "note"}>{step.verdict}</td>
      <td class="why">
        {name !== "" && <p>{name}<span class="note">{of}</span></p>}
        {step.file !== undefined && <p class="note"><code>{place(step)}</code></p>}
        {step.expression !== undefined && <p><code>{step.expression}</code></p>}
        {step.detail !== undefined && <p>{step.detail}</p>}
        {inputs.length > 0 && (
          <ul>{inputs.map(([input, value]) => <li key={input}><code>{input}</code> = <code>{read(value)}</code></li>)}</ul>
        )}
        {step.limits?.map((it) => <p key={it.rule} class="note">limit {it.rule}: {it.admitted ? "admitted" : "used up"}, {it.remaining} left for key {it.key}</p>)}
        {step.audits?.map((it) => <p key={it.rule} class="warn">audit {it.rule}: {it.detail} <code>{place(it)}</code></p>)}
      </td>
      <td class="number">{step.duration_us === undefined ? "" : micros(step.duration_us)}</td>
    </tr>
  );
}

function Answer({ decision }: { decision: Explained }) {
  const reason = decision["foregate.reason"];
  const steps = decision["foregate.steps"] ?? [];
  const status = decision["http.response.status_code"];
  return (
    <>
      <p class="verdict">
        {reason ? <><b class="bad">Refused</b> in {decision["foregate.step"]} as <b>{reason}</b></> : <b>Passed</b>}
        {status === undefined ? "" : `, status ${status}`}, {micros(decision["foregate.duration_us"])}
      </p>
      <p class="note wrap">
        {clock(decision.timestamp)} UTC, {decision["http.request.method"]} {decision["server.address"]}{decision["url.path"]} from {decision["client.address"]},
        {" "}listener {decision["foregate.listener"]}, {named(decision["http.route"] ?? decision["foregate.route"])}
        {decision["foregate.revision"] ? `, revision ${decision["foregate.revision"].slice(0, 12)}` : ""}
      </p>
      {decision["foregate.advice"] !== undefined && <p class="advice">{decision["foregate.advice"]}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label="Steps of this decision">
        <table class="steps">
          <thead><tr><th scope="col">Step</th><th scope="col">Verdict</th><th scope="col">Rule, and what it read</th><th scope="col" class="number">Time</th></tr></thead>
          <tbody>{steps.map((step, at) => <Told key={at} step={step} />)}</tbody>
        </table>
      </div>
    </>
  );
}

export function Explain() {
  const id = asked.value;
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem("id") as HTMLInputElement;
    explain(field.value.trim());
  };
  return (
    <Panel id="explain" title="One decision" note="its id is in x-foregate-decision of every response" command={asking(`explain ${id ? quoted(id) : "ID"}`)}>
      <form class="filters" onSubmit={submit} aria-label="Explain a decision">
        <label class="wide">Decision<input type="text" name="id" value={id} autocomplete="off" spellcheck={false} placeholder={"0199f3c2-\u2026"} /></label>
        <button type="submit">Explain</button>
      </form>
      {unexplained.value !== "" && <p class="bad" role="alert">{unexplained.value}</p>}
      {explained.value ? <Answer decision={explained.value} /> : unexplained.value === "" && <p class="empty">{id ? "Asking \u2026" : "Choose a decision, or paste its id."}</p>}
    </Panel>
  );
}
