// What is new on the server: as a stream of events while there is one, and by asking again where it is cut.

const SOON = 1500;
const LATER = 10_000;
const WHILE_STREAMING = 60_000;

// A stream that is closed in a hidden tab, since browsers allow few connections, and opened again in a visible one.
// pathOf(): where it is now, or null when there is nothing more to hear. handlers: by the name of the event.
export function listen(pathOf, handlers) {
  let source = null;
  const restart = () => {
    source?.close();
    source = null;
    const path = document.hidden ? null : pathOf();
    if (!path) return;
    source = new EventSource(path);
    for (const [name, handle] of Object.entries(handlers)) source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  };
  document.addEventListener("visibilitychange", restart);
  restart();
  return { restart, isOpen: () => source?.readyState === EventSource.OPEN };
}

// ask(): look once, and tell whether something is still going on. Asked again sooner then, and never in a hidden tab.
// Returns a function that asks at once.
export function keepAsking(ask, onError = () => {}, isStreaming = () => false) {
  let timer = null;
  let running = false;
  let wanted = false;
  const again = async () => {
    clearTimeout(timer);
    wanted = running;
    if (running || document.hidden) return;
    running = true;
    let pause = LATER;
    try {
      if (await ask()) pause = SOON;
    } catch (error) {
      onError(error);
      pause = 3000;
    }
    running = false;
    timer = setTimeout(again, wanted ? 0 : isStreaming() ? WHILE_STREAMING : pause);
  };
  document.addEventListener("visibilitychange", again);
  again();
  return again;
}
