// Whether it takes requests, by what configuration, and what became of the last attempt to change it.

import { ago } from "../format";
import { answered, now, overview, stale } from "../state";
import { Command } from "../panel";

const STATES = {
  ready: ["Ready", "good"],
  draining: ["Draining", "warn"],
  withheld: ["Granted nothing by the control plane", "bad"],
  waiting: ["Waiting for the control plane", "warn"],
  starting: ["Starting", "warn"],
} as const;

function since(time: string): string {
  return ago((now.value - Date.parse(time)) / 1_000);
}

export function Header() {
  const seen = overview.value;
  const [word, tone] = seen ? STATES[seen.state] : ["\u2026", "none"];
  const endpoints = seen?.endpoints;
  const unfit = endpoints ? endpoints.all - endpoints.fit : 0;
  return (
    <header class="top">
      <h1>Foregate <span>console</span></h1>
      <p class={`state ${stale.value ? "bad" : tone}`}>{stale.value ? "No answer" : word}</p>
      <dl>
        <div><dt>Revision</dt><dd title={seen?.config.revision}>{seen ? seen.config.revision.slice(0, 12) : "\u2026"}</dd></div>
        <div><dt>In force for</dt><dd>{seen ? since(seen.config.loaded_at) : "\u2026"}</dd></div>
        <div><dt>Routes</dt><dd>{seen?.config.routes ?? "\u2026"}</dd></div>
        <div><dt>Endpoints fit</dt><dd class={unfit > 0 ? "bad" : undefined}>{endpoints ? `${endpoints.fit} of ${endpoints.all}` : "\u2026"}</dd></div>
        <div><dt>In flight</dt><dd>{seen?.in_flight ?? "\u2026"}</dd></div>
        <div><dt>Version</dt><dd>{seen?.version ?? "\u2026"}</dd></div>
        <div><dt>Updated</dt><dd class={stale.value ? "bad" : undefined}>{answered.value ? `${ago((now.value - answered.value) / 1_000)} ago` : "\u2026"}</dd></div>
      </dl>
    </header>
  );
}

/** What is wrong with the configuration; nothing where nothing is. */
export function Faults() {
  const config = overview.value?.config;
  if (!config || (!config.failure && config.warnings.length === 0)) return null;
  const { failure, warnings } = config;
  return (
    <section class={`faults ${failure ? "bad" : "warn"}`} aria-labelledby="faults-title">
      {failure ? (
        <>
          <h2 id="faults-title">The last configuration was refused {since(failure.at)} ago</h2>
          <p>Revision {config.revision.slice(0, 12)} stays in force until what is told here is mended.</p>
          <pre tabIndex={0} role="region" aria-label="Diagnostics">{failure.diagnostics.join("\n\n")}</pre>
        </>
      ) : (
        <details>
          <summary><h2 id="faults-title">{warnings.length === 1 ? "1 warning" : `${warnings.length} warnings`} about the configuration in force</h2></summary>
          <pre tabIndex={0} role="region" aria-label="Warnings">{warnings.join("\n\n")}</pre>
        </details>
      )}
      <Command text={`curl -s ${location.origin}/config`} />
    </section>
  );
}
