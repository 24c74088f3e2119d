// The page: panels in the order in which an operator looks at them.

import { render } from "preact";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { said, stale, start } from "./state";
import { Faults, Header } from "./panels/header";
import { Added, Figures, Requests } from "./panels/now";
import { Routes } from "./panels/routes";
import { Funnel } from "./panels/funnel";
import { Decisions } from "./panels/decisions";
import { Explain } from "./panels/explain";
import { Models } from "./panels/models";

function Page() {
  return (
    <>
      <nav class="skip" aria-label="Panels">
        <a href="#routes">Skip to routes</a> <a href="#decisions">Skip to decisions</a> <a href="#explain">Skip to one decision</a>
      </nav>
      <Header />
      <main class={stale.value ? "stale" : undefined}>
        <Faults />
        <Figures />
        <Requests />
        <Added />
        <Funnel />
        <Routes />
        <Decisions />
        <Explain />
        <Models />
      </main>
      <p class="unseen" role="status">{said.value}</p>
    </>
  );
}

const place = document.getElementById("page");
if (place) render(<Page />, place);
start();
