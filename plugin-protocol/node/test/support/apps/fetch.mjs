export default {
  /** @param {Request} request */
  fetch(request) {
    return new Response(`fetched ${new URL(request.url).pathname} as ${process.argv[1]?.split("/").at(-1)}`);
  },
};
