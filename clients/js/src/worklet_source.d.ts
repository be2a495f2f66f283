/** The built worklet as text; made by build.mjs. */
declare module 'worklet:source' {
  const source: string;
  export default source;
}
