import { Hono } from "hono";

const app = new Hono().basePath("/shop");
app.get("/items/:id", (c) => c.json({ id: c.req.param("id"), q: c.req.query("q") }));
app.patch("/items/:id", async (c) => c.json(await c.req.json(), 202));
app.get("/fails", () => {
  throw new Error("a secret of the shop");
});

export default app;
