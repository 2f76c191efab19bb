process.stderr.write("loading\n");
setInterval(() => undefined, 60_000);
await new Promise(() => undefined);
