// A part of the page with its heading and the command that tells the same.

import { signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { said } from "./state";

interface Props {
  id: string;
  title: string;
  note?: ComponentChildren;
  command: string;
  children: ComponentChildren;
}

export function Panel({ id, title, note, command, children }: Props) {
  return (
    <section class="panel" id={id} aria-labelledby={`${id}-title`}>
      <div class="head">
        <h2 id={`${id}-title`} tabIndex={-1}>{title}</h2>
        {note !== undefined && <p class="note">{note}</p>}
      </div>
      <div class="body">{children}</div>
      <Command text={command} />
    </section>
  );
}

/** Where the admin endpoint is not where commands look for it by themselves, they are told. */
const elsewhere = ["127.0.0.1:9090", "localhost:9090"].includes(location.host) ? "" : ` --admin ${location.origin}`;

/** A command of `foregate` that speaks to this admin endpoint. */
export function asking(command: string): string {
  return `foregate ${command}${elsewhere}`;
}

const copies = signal(0);

export function Command({ text }: { text: string }) {
  const done = useSignal(0);
  const copy = async (): Promise<void> => {
    await navigator.clipboard.writeText(text);
    done.value = ++copies.value;
    said.value = "Copied.";
    setTimeout(() => (done.value = 0), 1_500);
  };
  return (
    <div class="command">
      <code>{text}</code>
      {/* Browsers lend the clipboard to pages of this machine alone. */}
      {isSecureContext && (
        <button type="button" onClick={() => void copy()} aria-label={`Copy: ${text}`}>
          {done.value ? "Copied" : "Copy"}
        </button>
      )}
    </div>
  );
}
